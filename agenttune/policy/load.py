"""From a name or a file to a policy."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ConfigDict

from agenttune.config import Settings, load_yaml
from agenttune.errors import ConfigError
from agenttune.policy.base import NoopPolicy, Policy, PolicyContext
from agenttune.policy.baselines import (
    GreedyLr,
    GreedyLrFile,
    NoopFile,
    RandomFile,
    RandomPolicy,
    ReduceOnPlateau,
    ReduceOnPlateauFile,
)
from agenttune.policy.expressions import did_you_mean
from agenttune.policy.rules import RulePolicy, RulesFile
from agenttune.policy.wrappers import Cooldown
from agenttune.resources import find_resource


def _rules(name: str, file: RulesFile, context: PolicyContext) -> Policy:
    policy = RulePolicy(name, tuple(file.rules))
    return Cooldown(policy, file.cooldown_steps) if file.cooldown_steps else policy


Make = Callable[[str, Any, PolicyContext], Policy]
TYPES: dict[str, tuple[type[Settings], Make]] = {
    "rules": (RulesFile, _rules),
    "noop": (NoopFile, lambda name, file, context: NoopPolicy(name)),
    "reduce_on_plateau": (ReduceOnPlateauFile, lambda name, file, context: ReduceOnPlateau(name, file)),
    "greedy_lr": (GreedyLrFile, lambda name, file, context: GreedyLr(name, file)),
    "random": (RandomFile, lambda name, file, context: RandomPolicy(name, file)),
}
"""`type:` of a policy file -> its settings and how to make the policy."""


class _TypeOnly(Settings):
    """Just enough of a policy file to see which settings it has."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    type: Any = None


@dataclass(frozen=True)
class LoadedPolicy:
    """A policy with where it came from.

    Attributes:
        policy: The policy.
        path: Its file.
        sha256: Of the file's bytes.
    """

    policy: Policy
    path: Path
    sha256: str

    @property
    def details(self) -> dict[str, str]:
        """What is recorded when it is attached to a run."""
        return {"path": str(self.path), "sha256": self.sha256}


def load_policy(name_or_path: str, context: PolicyContext | None = None) -> Policy:
    """A ready-made policy by its name, or one from a file.

    Raises:
        ConfigError: No such policy (lists those there are), or its file is wrong (`file:line: key: problem`).
    """
    return open_policy(name_or_path, context).policy


def open_policy(name_or_path: str, context: PolicyContext | None = None) -> LoadedPolicy:
    """As `load_policy`, with the file's path and checksum for the log."""
    context = context or PolicyContext()
    path = find_resource("policies", name_or_path, context.project)
    kind = load_yaml(path, _TypeOnly).type
    if kind not in TYPES:
        raise _unknown_type(path, kind)
    settings, make = TYPES[kind]
    policy = make(path.stem, load_yaml(path, settings), context)
    return LoadedPolicy(policy, path, hashlib.sha256(path.read_bytes()).hexdigest())


def _unknown_type(path: Path, kind: Any) -> ConfigError:
    problem = f"unknown type {kind!r}{did_you_mean(str(kind), list(TYPES))}"
    if kind is None:
        problem = "this key is required"
    message = f"{path}:{_line_of_type(path)}: type: {problem}; known: {', '.join(TYPES)}"
    return ConfigError(message, field="type", allowed=list(TYPES))


def _line_of_type(path: Path) -> int:
    """The line (from 1) of the key `type`, 1 if it is missing."""
    root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    return next((key.start_mark.line + 1 for key, _ in pairs if key.value == "type"), 1)
