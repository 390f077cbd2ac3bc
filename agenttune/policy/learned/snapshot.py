"""A run at one moment, as far as rules may know it: what the learned policy is trained on and decides by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from agenttune.policy.rule_names import PLAIN_FUNCTIONS, functions_of, names_of
from agenttune.protocol.observation import Observation

COUNTED = ("load_checkpoint", "update_optimizer", "update_schedule")
"""Kinds of commands of which it is known how many agents had applied."""


@dataclass(frozen=True)
class Snapshot:
    """The values of the names that rules may read, so that any run can be put in the place of any other.

    Attributes:
        names: As `policy/rule_names.py` documents them, groups as mappings.
        changed: Commands that agents had applied or queued, by kind.
    """

    names: Mapping[str, Any]
    changed: Mapping[str, int]

    @classmethod
    def of(cls, observation: Observation) -> Snapshot:
        """Without findings of the user's own detectors, which no training knew of."""
        changed = functions_of(observation)["changed"]
        return cls(names_of(observation), {kind: changed(kind) for kind in COUNTED})

    @property
    def functions(self) -> dict[str, Callable[..., Any]]:
        """What expressions over it may call."""
        return {**PLAIN_FUNCTIONS, "changed": lambda kind: self.changed[kind]}

    def group(self, name: str) -> Mapping[str, Any]:
        """The names after a dot."""
        found: Mapping[str, Any] = self.names[name]
        return found
