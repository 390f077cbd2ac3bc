"""The gate: every proposal gets a verdict here before the trainer may see it.

Guardrails come first, then whoever has to approve. Knows the log's records and the settings; nothing of who asks or how
a command is carried out.
"""

from agenttune.gate.approval_rules import allowed_before, escalated, person, stale, timed_out
from agenttune.gate.approvers import ApprovalCase, Approver, Opinion
from agenttune.gate.available_commands import not_offered, probe_steps_left
from agenttune.gate.context import CommandHistory, Guardrail, Moment
from agenttune.gate.gate import Gate, guards_nothing, with_arguments
from agenttune.gate.guardrails import GUARDRAILS
from agenttune.gate.knob_targets import Target, targets_of, values_of
from agenttune.gate.lr_forecast import prospects

__all__ = [
    "GUARDRAILS",
    "ApprovalCase",
    "Approver",
    "CommandHistory",
    "Gate",
    "Guardrail",
    "Moment",
    "Opinion",
    "Target",
    "allowed_before",
    "escalated",
    "guards_nothing",
    "not_offered",
    "person",
    "probe_steps_left",
    "prospects",
    "stale",
    "targets_of",
    "timed_out",
    "values_of",
    "with_arguments",
]
