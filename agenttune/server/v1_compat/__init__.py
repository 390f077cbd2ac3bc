"""The API of v1 (Interactive Training), so that its clients work unchanged: its paths, shapes and frames.

Translates to and from the protocol, and speaks to the control interface like every other route.
"""
