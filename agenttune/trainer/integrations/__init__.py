"""One training loop each: transformers' Trainer, Lightning, a loop written by hand, a loop that cannot be edited.

What a session asks of a loop stands in `trainer/adapter.py`; nothing outside knows one loop from another.
"""
