"""From a name or a file to a policy."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ConfigDict

from agenttune.config import GateSettings, Place, PolicyFile, Settings, line_of, load_yaml
from agenttune.config.resources import find_resource
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
from agenttune.policy.llm.llm_policy import LlmFile, make_llm
from agenttune.policy.lookahead import Lookahead, LookaheadFile
from agenttune.policy.rules import RulePolicy, RulesFile
from agenttune.policy.schedule import ScheduleFile, SchedulePolicy
from agenttune.policy.wrappers.composites import COMPOSITES
from agenttune.policy.wrappers.simple import Cooldown
from agenttune.policy.wrappers.wrapper import notice_of, walk
from agenttune.protocol.invalid_values import did_you_mean
from agenttune.protocol.plan_entries import DETAIL, PlanEntry


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
    "lookahead": (LookaheadFile, lambda name, file, context: Lookahead(name, file)),
    "llm": (LlmFile, make_llm),
    "schedule": (ScheduleFile, lambda name, file, context: SchedulePolicy(name, file)),
}
"""`type:` of a policy file -> its settings and how to make the policy."""


class _TypeOnly(Settings):
    """Just enough of a policy file to see which settings it has."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    type: Any = None
    gate: Any = None


class _Limits(PolicyFile):
    """The limits of a policy file, whatever else it has."""

    model_config = ConfigDict(frozen=True, extra="ignore")


@dataclass(frozen=True)
class LoadedPolicy:
    """A policy with where it came from.

    Attributes:
        policy: The policy.
        path: Its file.
        sha256: Of the file's bytes.
        parts: SHA-256 of the files of the policies that it is made of, by path.
        gate: Its limits, for what a run's config file leaves open.
    """

    policy: Policy
    path: Path
    sha256: str
    parts: dict[str, str] = field(default_factory=dict)
    gate: GateSettings | None = None

    @property
    def notice(self) -> str:
        """One line for whoever starts the run, such as that it goes by rules alone; or nothing."""
        return notice_of(self.policy)

    @property
    def details(self) -> dict[str, Any]:
        """What is recorded when it is attached to a run."""
        plan = [entry.model_dump(mode="json") for part in walk(self.policy) for entry in _plan_of(part)]
        known = {
            "path": str(self.path),
            "sha256": self.sha256,
            "parts": self.parts,
            "notice": self.notice,
            DETAIL: plan,
        }
        return {name: value for name, value in known.items() if value}


def _plan_of(policy: Policy) -> list[PlanEntry]:
    return policy.plan if isinstance(policy, SchedulePolicy) else []


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
    opening = _Opening(context)
    policy = opening.file(path, ())
    parts = {str(other): sha256 for other, sha256 in opening.sha256.items() if other != path}
    return LoadedPolicy(policy, path, opening.sha256[path], parts, load_yaml(path, _Limits).gate)


@dataclass(frozen=True)
class _Opening:
    """Opens a policy and the policies that it is made of.

    Attributes:
        context: For all of them.
        sha256: Of the files read so far.
    """

    context: PolicyContext
    sha256: dict[Path, str] = field(default_factory=dict)

    def file(self, path: Path, chain: tuple[Path, ...]) -> Policy:
        """The policy of a file that the files of `chain` lead to."""
        policy = self._place(path, (), path.stem, (*chain, path.resolve()))
        self.sha256[path] = hashlib.sha256(path.read_bytes()).hexdigest()
        return policy

    def _place(self, path: Path, at: Place, name: str, chain: tuple[Path, ...]) -> Policy:
        own = load_yaml(path, _TypeOnly, at)
        kind = own.type
        if own.gate is not None and (at or len(chain) > 1):
            key, line = ".".join(map(str, (*at, "gate"))), line_of(path, (*at, "gate"))
            where = f"set them in {chain[0].name} or in the config file"
            raise ConfigError(f"{path}:{line}: {key}: a part of another policy cannot set limits; {where}", field=key)
        if kind in COMPOSITES:
            settings, make_of_parts = COMPOSITES[kind]

            def part(reference: Any, *keys: str | int) -> Policy:
                return self._part(reference, path, (*at, *keys), chain)

            return make_of_parts(name, load_yaml(path, settings, at), self.context, part)
        if kind not in TYPES:
            raise _unknown_type(path, at, kind)
        settings, make = TYPES[kind]
        return make(name, load_yaml(path, settings, at), self.context)

    def _part(self, reference: Any, path: Path, at: Place, chain: tuple[Path, ...]) -> Policy:
        if not isinstance(reference, str):
            return self._place(path, at, str(reference["type"]), chain)
        where = f"{path}:{line_of(path, at)}: {'.'.join(map(str, at))}"
        try:
            beside = path.parent / reference
            found = beside if beside.is_file() else find_resource("policies", reference, self.context.project)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error.message}", field="policy", allowed=error.allowed) from None
        if found.resolve() in chain:
            circle = [*chain[chain.index(found.resolve()) :], found.resolve()]
            raise ConfigError(
                f"{where}: a policy cannot be a part of itself: {' -> '.join(p.name for p in circle)}; name another one"
            )
        return self.file(found, chain)


def _unknown_type(path: Path, at: Place, kind: Any) -> ConfigError:
    known = [*TYPES, *COMPOSITES]
    problem = f"unknown type {kind!r}{did_you_mean(str(kind), known)}"
    if kind is None:
        problem = "this key is required"
    place = (*at, "type")
    key = ".".join(map(str, place))
    message = f"{path}:{line_of(path, place)}: {key}: {problem}; known: {', '.join(known)}"
    return ConfigError(message, field="type", allowed=known)
