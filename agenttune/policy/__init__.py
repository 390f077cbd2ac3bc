"""Policies: what to do about what is seen. None of them has a path to the trainer; they only propose."""
