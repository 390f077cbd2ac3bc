"""The control server: REST and live events over the runs folder, in a process of its own.

It knows runs only through the control interface. Nothing is imported here, so that `notify/` can be had without the
web framework.
"""
