"""Layers of the model in training: found by name, what may be done to them, and what was changed about them."""
