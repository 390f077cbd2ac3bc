"""The gate: every proposal gets a verdict here before the trainer may see it."""

from agenttune.gate.gate import Gate
from agenttune.gate.guardrails import GUARDRAILS, Guardrail
from agenttune.gate.targets import Target, targets_of

__all__ = ["GUARDRAILS", "Gate", "Guardrail", "Target", "targets_of"]
