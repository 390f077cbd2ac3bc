"""Policies around policies: cooldown, patience, shadow, background, fallback, escalation and second opinion.

Each works with any policy inside.
"""
