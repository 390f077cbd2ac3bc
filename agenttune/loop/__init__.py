"""The agent loop: wake, observe, detect, decide, submit, record."""

from agenttune.loop.agent import AgentLoop
from agenttune.loop.door import AgentControl
from agenttune.loop.wakes import EFFECT_STEPS, REARM_STEPS, is_new

__all__ = ["EFFECT_STEPS", "REARM_STEPS", "AgentControl", "AgentLoop", "is_new"]
