"""The gate: every proposal gets a verdict here before the trainer may see it."""

from agenttune.gate.approval import person, stale, timed_out
from agenttune.gate.chain import Moment, allowed_before
from agenttune.gate.gate import Gate, History, usd_per_hour, with_arguments
from agenttune.gate.guardrails import GUARDRAILS
from agenttune.gate.offers import not_offered, probe_steps_left
from agenttune.gate.prospects import prospects
from agenttune.gate.targets import Target, targets_of, touched_by, values_of
from agenttune.gate.unguarded import guards_nothing
from agenttune.gate.world import Guardrail

__all__ = [
    "GUARDRAILS",
    "Gate",
    "Guardrail",
    "History",
    "Moment",
    "Target",
    "allowed_before",
    "guards_nothing",
    "not_offered",
    "person",
    "probe_steps_left",
    "prospects",
    "stale",
    "targets_of",
    "timed_out",
    "touched_by",
    "usd_per_hour",
    "values_of",
    "with_arguments",
]
