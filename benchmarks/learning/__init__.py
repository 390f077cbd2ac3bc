"""The benchmark's own counterfactuals, from which the learned policy is made, and its judging on what it never saw.

`units.py` draws trainings of the development range, `counterfactuals.py` does each again and again with one change more
at some moment, `judging.py` lets weights that never saw a task, or a kind of fault, take part there.
"""
