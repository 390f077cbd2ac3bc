"""Several runs of one script: what is planned, done and learned, kept in a log from which everything is folded.

Knows `launch/` for carrying out each run, and a language model for planning between them.
"""
