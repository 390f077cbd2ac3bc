"""Tells people what they want to hear of: where, what, and that it was told."""

from agenttune.server.notify.channels import Channel

__all__ = ["Channel"]
