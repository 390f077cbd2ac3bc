"""A policy whose judgement is learned: an ensemble foretells what each of a few changes would gain, or it abstains.

`snapshot.py` reads a run by the names that rules have, `features.py` turns them into numbers, `possible_changes.py`
lists what may be proposed, `ensemble.py` foretells gains from weights in a file, `learned_policy.py` decides. Weights
are made by `benchmarks/learning` (`make learn`) and refined by `agenttune/replay/learning` (`agenttune learn`).
"""
