"""What a config file amounts to: checked settings, absolute paths, the command that will run."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from agenttune.config import Config, RunSettings, load_config, with_limits_of
from agenttune.config.plugins import PluginUse, file_of, written_adapters
from agenttune.config.yaml_files import Place, written_at
from agenttune.errors import ConfigError, UserError
from agenttune.launch.credentials import not_for_agent
from agenttune.launch.launchers import check_launcher, launcher_words, other_nodes
from agenttune.launch.plugin_trials import PluginTrials
from agenttune.launch.study.records import StudyPlace
from agenttune.policy.base import PolicyContext
from agenttune.policy.llm.reviewer import Reviewer
from agenttune.policy.load import LoadedPolicy, context_of, open_policy
from agenttune.policy.plugins import StandIn
from agenttune.policy.wrappers.availability import check_can_act
from agenttune.policy.wrappers.wrapper import walk
from agenttune.protocol.invalid_values import did_you_mean
from agenttune.server.notify.channels import open_channels
from agenttune.store.local_folder import local_runs_dir


@dataclass(frozen=True)
class Plan:
    """A run that can be started.

    Attributes:
        config: The settings.
        path: The config file, absolute.
        runs_dir: Folder of runs, absolute.
        command: The training process, as for `subprocess`.
        place: Where the run stands in its study, if it belongs to one.
        context: What its policies are looked at with; no code of the user's own runs in this process.
        faults: Why approvers or channels of the user's own cannot be used.
        moved: What there is to say of the folder of runs, where another one was asked for.
    """

    config: Config
    path: Path
    runs_dir: Path
    command: list[str]
    place: StudyPlace | None = None
    context: PolicyContext = field(default_factory=PolicyContext)
    faults: tuple[str, ...] = ()
    moved: str = ""

    @property
    def folder(self) -> Path:
        """The config file's folder, where the script runs."""
        return self.path.parent

    @property
    def subject(self) -> str:
        """The script with its arguments, for people."""
        run = self.config.run
        what = run.script if run.script is not None else f"-m {run.module}"
        script = f"{what} {shlex.join(run.args)}".strip()
        if run.launcher != "python":
            script = f"{run.launcher} {script}"
        return script if self.place is None else f"{self.place.words}: {script}"

    @property
    def notice(self) -> str:
        """What the policy has to say before it starts, such as that it goes by rules alone; or nothing."""
        told = [
            self.moved,
            other_nodes(self.config.run, self.path),
            open_policy(self.config.policy, self.context).notice,
        ]
        return "; ".join(filter(None, [*told, *(detector.fault for detector in self.context.detectors), *self.faults]))

    @property
    def broken_plugins(self) -> list[str]:
        """Why code of the user's own cannot be used; a run would go on without."""
        policy = open_policy(self.config.policy, self.context).policy
        broken = [part.why for part in walk(policy) if isinstance(part, StandIn)]
        return list(filter(None, [*broken, *(detector.fault for detector in self.context.detectors), *self.faults]))

    def with_run(self, args: list[str], policy: str, place: StudyPlace) -> Plan:
        """The same script with other arguments and another policy, as one run of a study."""
        run = self.config.run.model_copy(update={"args": args})
        config = self.config.model_copy(update={"run": run, "policy": policy})
        return replace(self, config=config, command=_command(run, self.path), place=place)


def make_plan(path: Path, runs_dir: Path | None = None) -> Plan:
    """Read a config file and check everything that can be known before anything starts.

    Args:
        path: The config file.
        runs_dir: Instead of the file's `store.runs_dir`.

    Raises:
        ConfigError: The file, its policy or its script is wrong; says where.
    """
    path = path.resolve()
    config = load_config(path, is_run=True)
    _check_channels(config, path)
    trials = PluginTrials(path.parent, not_for_agent(config))
    context = context_of(config, path, try_plugin=trials)
    faults = tuple(fault for use in _beside_the_run(config, path) if (fault := trials(use).fault))
    references = config.rounds.references if config.rounds.count else []
    for index, policy in enumerate(references):
        _open_acting(policy, context, path, ("rounds", "references", index))
    limits = _open_acting(config.policy, context, path, ("policy",)).gate
    config = config.model_copy(update={"gate": with_limits_of(limits, config.gate)})
    _check_reviewer(config, context, path)
    folder = (path.parent / config.store.runs_dir) if runs_dir is None else runs_dir
    local, moved = local_runs_dir(folder.resolve())
    return Plan(config, path, local, _command(config.run, path), context=context, faults=faults, moved=moved)


def _open_acting(name: str, context: PolicyContext, path: Path, at: Place) -> LoadedPolicy:
    """A policy that can do something; ConfigError where it never could, such as a model alone without a model."""
    loaded = open_policy(name, context, (path, at))
    try:
        check_can_act(loaded.policy, name)
    except ConfigError as error:
        raise ConfigError(f"{written_at(path, at)}: {error}", field="policy") from None
    return loaded


def _check_reviewer(config: Config, context: PolicyContext, path: Path) -> None:
    """Raises ConfigError where a rule asks a model that cannot be asked: all it decides on would be refused."""
    if not config.gate.asks_model:
        return
    why_not = Reviewer("gate", config.gate.reviewer, context).why_not
    if why_not:
        raise ConfigError(f"{path}: gate.approval asks a model: {why_not}", field="gate.reviewer")


def _beside_the_run(config: Config, path: Path) -> Iterator[PluginUse]:
    """Classes of the user's own that work in the reviewer's process."""
    for name, entry in config.gate.approvers.items():
        yield PluginUse.of_entry("approver", entry, path, ("gate", "approvers", name))
    for index, entry in enumerate(config.notify.channels):
        yield PluginUse.of_entry("channel", entry, path, ("notify", "channels", index))


def _check_channels(config: Config, path: Path) -> None:
    """Refuse to start what could not tell anybody: at night it would be found out too late."""
    if config.notify.on and (not config.notify.channels or os.environ.get(config.notify.url_env)):
        try:
            open_channels(config.notify.url_env)
        except UserError as error:
            raise ConfigError(f"{path}: {error}", field=error.field) from None


def _command(run: RunSettings, path: Path) -> list[str]:
    check_launcher(run, path)
    if run.script is not None:
        script = path.parent / run.script
        if not script.is_file():
            raise ConfigError(f"{path}: run.script: there is no file {script}{_near(script)}", field="run.script")
        _check_adapters(script, path.parent)
        return [*launcher_words(run, path), str(script), *run.args]
    module = str(run.module)
    extra = [str(path.parent / part) for part in run.env.get("PYTHONPATH", "").split(os.pathsep) if part]
    if why_not := not_runnable(module, [str(path.parent), *extra]):
        raise ConfigError(f"{path}: run.module: {why_not}", field="run.module")
    return [*launcher_words(run, path), "-m", module, *run.args]


def _check_adapters(script: Path, folder: Path) -> None:
    """Refuse a script that names an adapter's file that is not there, before its model is loaded."""
    for line, reference in written_adapters(script):
        try:
            file_of(PluginUse("adapter", reference, (folder,)))
        except ConfigError as error:
            raise ConfigError(f"{script}:{line}: {error.message}", field="adapter") from None


def _near(script: Path) -> str:
    """The script beside it that was probably meant."""
    return did_you_mean(script.name, sorted(p.name for p in script.parent.glob("*.py")))


def not_runnable(module: str, folders: Sequence[str]) -> str:
    """Why a module cannot be run; empty if it can.

    Args:
        module: Its dotted name.
        folders: Where to look beside what is installed.
    """
    if module.endswith(".py"):
        return f"{module!r} is a file's name; set run.script to it, or leave out the ending"
    parts = module.split(".")
    if not all(part.isidentifier() for part in parts):
        return f"{module!r} is no name of a module, such as package.train"
    spec = _top(parts[0], [*folders, *sys.path])
    if spec is None:
        return f"there is no module {parts[0]!r}, neither in {folders[0]} nor installed"
    for count, part in enumerate(parts[1:], 1):
        spec = _inside(spec, part)
        if spec is None:
            return f"there is no module {part!r} in {'.'.join(parts[:count])!r}"
    if spec.submodule_search_locations is not None and _inside(spec, "__main__") is None:
        return f"{module!r} is a package without a __main__ module; name one of its modules"
    return ""


def _top(name: str, paths: Sequence[str]) -> ModuleSpec | None:
    # All finders: installs for development have one of their own.
    specs = (finder.find_spec(name, paths) for finder in sys.meta_path)
    return next((spec for spec in specs if spec is not None), None)


def _inside(package: ModuleSpec, name: str) -> ModuleSpec | None:
    """Unlike `importlib.util.find_spec` this does not import the package: it may train."""
    places = package.submodule_search_locations
    return None if places is None else PathFinder.find_spec(name, list(places))
