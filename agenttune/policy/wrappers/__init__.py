"""Policies around policies: cooldown, patience, fallback, shadow, escalation, second opinion, in the background.

Each wraps any policy; none knows what is inside.
"""
