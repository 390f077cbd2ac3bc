"""The REST routes, a file a theme: runs, layers, commands, approvals, streams.

They speak to the control interface only.
"""
