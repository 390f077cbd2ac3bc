"""Loops beside transformers' Trainer: a plain PyTorch loop, a loop nobody can edit, Lightning's."""
