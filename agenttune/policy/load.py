"""From a name or a file to a policy."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ConfigDict

from agenttune.config import AttachSettings, Config, GateSettings, Place, PolicyFile, Settings, load_yaml, written_at
from agenttune.config.plugins import PluginUse, installed, is_class_reference
from agenttune.config.resources import find_resource, list_resources
from agenttune.errors import ConfigError
from agenttune.policy.base import NoopPolicy, Policy, PolicyContext, TryPlugin
from agenttune.policy.baselines import (
    GreedyLr,
    GreedyLrFile,
    NoopFile,
    RandomFile,
    RandomPolicy,
    ReduceOnPlateau,
    ReduceOnPlateauFile,
)
from agenttune.policy.learned.learned_file import FOLDER, LearnedFile, make_learned, read_files
from agenttune.policy.llm.llm_policy import LlmFile, make_llm
from agenttune.policy.lookahead import Lookahead, LookaheadFile
from agenttune.policy.plugins import MadePlugin, make_policy, open_detectors
from agenttune.policy.rule_names import OWN_DETECTORS
from agenttune.policy.rules import RulePolicy, RulesFile
from agenttune.policy.schedule import ScheduleFile, SchedulePolicy
from agenttune.policy.wrappers.composites import COMPOSITES, HOLD_BACK
from agenttune.policy.wrappers.simple import Cooldown
from agenttune.policy.wrappers.wrapper import notice_of, walk
from agenttune.protocol.invalid_values import did_you_mean
from agenttune.protocol.plan_entries import DETAIL, PlanEntry
from agenttune.protocol.reads import RunReader


def _rules(name: str, file: RulesFile, context: PolicyContext) -> Policy:
    policy = RulePolicy(name, tuple(file.rules), context.detectors)
    return Cooldown(policy, file.cooldown_steps) if file.cooldown_steps else policy


Make = Callable[[str, Any, PolicyContext], Policy]
TYPES: dict[str, tuple[type[Settings], Make]] = {
    "rules": (RulesFile, _rules),
    "noop": (NoopFile, lambda name, file, context: NoopPolicy(name)),
    "reduce_on_plateau": (ReduceOnPlateauFile, lambda name, file, context: ReduceOnPlateau(name, file)),
    "greedy_lr": (GreedyLrFile, lambda name, file, context: GreedyLr(name, file)),
    "random": (RandomFile, lambda name, file, context: RandomPolicy(name, file, context.seed)),
    "lookahead": (LookaheadFile, lambda name, file, context: Lookahead(name, file)),
    "learned": (LearnedFile, make_learned),
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
        path: Its file; with a class of the user's own, that class in it, or the installed name.
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


def context_of(
    settings: Config | AttachSettings,
    config: Path | None,
    reader: RunReader | None = None,
    try_plugin: TryPlugin | None = None,
) -> PolicyContext:
    """What the policies of a config file are made with.

    Args:
        settings: Of the file, or the defaults.
        config: The file; None: there is none, and the working folder is the project.
        reader: Reads the run that is steered; None while a policy is only checked.
        try_plugin: As for `PolicyContext`.

    Raises:
        ConfigError: While it is only checked: a detector of `detectors` is wrong.
    """
    folder = Path.cwd() if config is None else config.resolve().parent
    context = PolicyContext(folder, settings.goal, settings.llm, settings.budgets, reader=reader, try_plugin=try_plugin)
    if config is None or not settings.detectors:
        return context
    return replace(context, detectors=open_detectors(settings.detectors, config, context))


def load_policy(name_or_path: str, context: PolicyContext | None = None) -> Policy:
    """A ready-made policy by its name, one from a YAML file, or a class of the user's own (`./mine.py:Mine`).

    Raises:
        ConfigError: No such policy (lists those there are), or its file is wrong (`file:line: key: problem`).
    """
    return open_policy(name_or_path, context).policy


def open_policy(
    name_or_path: str, context: PolicyContext | None = None, named: tuple[Path, Place] | None = None
) -> LoadedPolicy:
    """As `load_policy`, with the file's path and checksum for the log.

    Args:
        name_or_path: The policy.
        context: What it is made with.
        named: The settings file that names it, and where in it, for errors; None: somebody names it by hand.
    """
    context = context or PolicyContext()
    opening = _Opening(context)
    if (use := _plugin_meant(name_or_path, context)) is not None:
        if named is not None:
            use = replace(use, file=named[0], at=named[1], is_bare=True)
        made = make_policy(use, _name_of(use), context)
        return LoadedPolicy(made.policy, Path(use.identity), made.sha256)
    path = _find(name_or_path, context, named)
    policy = opening.file(path, ())
    parts = {str(other): sha256 for other, sha256 in opening.sha256.items() if other != path}
    return LoadedPolicy(policy, path, opening.sha256[path], parts, load_yaml(path, _Limits).gate)


def _find(name: str, context: PolicyContext, named: tuple[Path, Place] | None) -> Path:
    """The file of a ready-made policy; an error says where it is named."""
    try:
        return find_resource("policies", name, context.project)
    except ConfigError as error:
        at = "" if named is None else f"{written_at(*named)}: "
        raise ConfigError(f"{at}{error.message}", field="policy", allowed=error.allowed) from None


def identity_of(name_or_path: str, project: Path | None) -> str:
    """As `LoadedPolicy.path` names it; the name itself if there is no such policy."""
    if (use := _plugin_meant(name_or_path, PolicyContext(project))) is not None:
        return use.identity
    try:
        return str(find_resource("policies", name_or_path, project))
    except ConfigError:
        return name_or_path


def _plugin_meant(name: str, context: PolicyContext) -> PluginUse | None:
    """The class of the user's own that is meant, if one is; a file of `policies/` comes before an installed name."""
    is_installed = any(entry.name == name for entry in installed("policy"))
    if is_class_reference(name) or (is_installed and name not in list_resources("policies", context.project)):
        return PluginUse("policy", name, (context.project or Path.cwd(),))
    return None


def _name_of(use: PluginUse) -> str:
    return use.reference.rpartition(":")[2]


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
            place = (*at, "gate")
            where = f"set them in {chain[0].name} or in the config file"
            message = f"{written_at(path, place)}: a part of another policy cannot set limits; {where}"
            raise ConfigError(message, field=".".join(map(str, place)))
        if kind in COMPOSITES:
            settings, make_of_parts = COMPOSITES[kind]
            opening = self._without_asking() if kind in HOLD_BACK else self

            def part(reference: Any, *keys: str | int) -> Policy:
                return opening._part(reference, path, (*at, *keys), chain)

            return make_of_parts(name, load_yaml(path, settings, at), self.context, part)
        if kind not in TYPES:
            return self._plugin(kind, path, at, name)
        settings, make = TYPES[kind]
        known = {OWN_DETECTORS: self.context.detectors, FOLDER: path.parent}
        read = load_yaml(path, settings, at, known)
        for other in read_files(read):
            self.sha256[other] = hashlib.sha256(other.read_bytes()).hexdigest()
        return make(name, read, self.context)

    def _without_asking(self) -> _Opening:
        """The same for parts that may ask for nothing before the decision has passed the policy around them."""
        return _Opening(self.context.without_asker(), self.sha256)

    def _plugin(self, kind: Any, path: Path, at: Place, name: str) -> Policy:
        is_known = isinstance(kind, str) and any(entry.name == kind for entry in installed("policy"))
        if not (isinstance(kind, str) and is_class_reference(kind)) and not is_known:
            raise _unknown_type(path, at, kind)
        use = PluginUse("policy", kind, self._folders(path), path, at)
        return self._keep(make_policy(use, name if name != kind else _name_of(use), self.context))

    def _folders(self, path: Path) -> tuple[Path, ...]:
        """Where a class's file is looked for: beside the file that names it, then in the project."""
        return (path.parent.resolve(), self.context.project or Path.cwd())

    def _keep(self, made: MadePlugin) -> Policy:
        if made.path is not None:
            self.sha256[made.path] = made.sha256
        return made.policy

    def _part(self, reference: Any, path: Path, at: Place, chain: tuple[Path, ...]) -> Policy:
        if not isinstance(reference, str):
            return self._place(path, at, str(reference["type"]), chain)
        if _plugin_meant(reference, self.context) is not None and not (path.parent / reference).is_file():
            use = PluginUse("policy", reference, self._folders(path), path, at, is_bare=True)
            return self._keep(make_policy(use, _name_of(use), self.context))
        beside = path.parent / reference
        found = beside if beside.is_file() else _find(reference, self.context, (path, at))
        if found.resolve() in chain:
            circle = [*chain[chain.index(found.resolve()) :], found.resolve()]
            words = f"a policy cannot be a part of itself: {' -> '.join(p.name for p in circle)}; name another one"
            raise ConfigError(f"{written_at(path, at)}: {words}")
        return self.file(found, chain)


def _unknown_type(path: Path, at: Place, kind: Any) -> ConfigError:
    known = [*TYPES, *COMPOSITES, *(entry.name for entry in installed("policy"))]
    problem = f"unknown type {kind!r}{did_you_mean(str(kind), known)}"
    if kind is None:
        problem = "this key is required"
    known_words = f"known: {', '.join(known)}; or a class of your own: ./mine.py:Mine"
    message = f"{written_at(path, (*at, 'type'))}: {problem}; {known_words}"
    return ConfigError(message, field="type", allowed=known)
