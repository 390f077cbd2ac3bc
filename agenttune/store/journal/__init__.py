"""Folds of a log: the summary of a run, what a policy sees of it, its costs, the score of a shadow.

Reads logs and writes none. There is no second source of truth beside them.
"""
