"""What the learned policy learns: moments of runs with what a change made there was worth, and the fit to them.

`moments.py` is one such row, `fit.py` makes an ensemble of many, `own_runs.py` finds them in a user's own runs.
"""
