"""The handlers: one function per command checks everything, then writes, then reads back.

They know the run state and the loop's adapter; when a command is carried out is decided in `execution/`.
"""
