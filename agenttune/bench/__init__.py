"""The benchmark of tuner policies: tasks with faults, contenders that face the same ones, and what the figures say.

A cell is one contender in one scenario with one seed. It runs in one process through the same trainer, gate and agent
loop as `agenttune run`. Only `tasks/` knows torch; the rest may know every room but `cli/`.
"""
