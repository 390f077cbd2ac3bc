"""Trying candidates from one state: a snapshot, some steps of each, back each time, the best one applied."""
