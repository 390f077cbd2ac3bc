"""Watching each change of an agent for a while, and taking it back if it hurt."""
