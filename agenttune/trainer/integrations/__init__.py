"""One training loop each: transformers' Trainer, Lightning, a loop of one's own, a loop that nobody can edit.

What a session asks of a loop stands in `trainer/adapter.py`; nothing outside knows one loop from another.
"""
