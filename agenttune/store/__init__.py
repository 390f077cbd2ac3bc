"""A run's log: one SQLite file a run, append-only, with downsampled metrics and the states of commands.

`journal/` folds a log into what is told of a run. Knows the protocol, and from `config/` and `detectors/` what it takes
to fold; nothing of who asks for commands or carries them out.
"""
