"""The gate: every proposal gets a verdict here before the trainer may see it."""

from agenttune.gate.approval import Moment, person, stale, timed_out, touched_by
from agenttune.gate.gate import Gate, History, with_arguments
from agenttune.gate.guardrails import GUARDRAILS, Guardrail
from agenttune.gate.targets import Target, targets_of

__all__ = [
    "GUARDRAILS",
    "Gate",
    "Guardrail",
    "History",
    "Moment",
    "Target",
    "person",
    "stale",
    "targets_of",
    "timed_out",
    "touched_by",
    "with_arguments",
]
