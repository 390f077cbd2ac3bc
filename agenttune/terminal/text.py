"""Numbers and foreign text as a terminal may show them."""

from __future__ import annotations

from agenttune.wording import FORBIDDEN, MAX_CHARACTERS, clean, duration, number

__all__ = ["FORBIDDEN", "MAX_CHARACTERS", "clean", "duration", "number"]
