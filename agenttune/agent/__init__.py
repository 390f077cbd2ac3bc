"""The agent loop beside a run: wake, observe, detect, decide, submit, record; and the model that approves.

It knows a policy and the control interface; it has no path to the trainer, nor to a log but through control.
"""

from agenttune.agent.loop import AgentLoop
from agenttune.agent.wakeups import EFFECT_STEPS, REARM_STEPS, is_new

__all__ = ["EFFECT_STEPS", "REARM_STEPS", "AgentLoop", "is_new"]
