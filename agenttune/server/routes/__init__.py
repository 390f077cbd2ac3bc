"""The REST routes: `reads.py` derives those that read, `commands.py` writes, `streams.py` has the live stream.

They speak to the control interface only.
"""
