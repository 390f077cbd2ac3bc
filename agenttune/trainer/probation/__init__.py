"""Monitors each change of an agent for a while, and reverts it if it hurt."""
