"""Everything that goes over the wire or into the log: commands, proposals, events, findings, observations.

The one list of commands is here; each knows its bounds, its risk and what it changes. Plain data and arithmetic on it:
knows nothing but the errors.
"""
