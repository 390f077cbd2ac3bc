"""Whether classes of the user's own can be used, found out in a process of its own: this one keeps a training alive."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path

from agenttune.config.plugins import IMPORT_LIMIT_S, PluginClass, PluginUse, find_class
from agenttune.errors import ConfigError, PluginFault
from agenttune.gate import Approver
from agenttune.policy.base import Policy, PolicyContext, TriedPlugin
from agenttune.policy.plugins import CONTEXT, find_detector
from agenttune.server.notify import Channel

COMMAND = "try-plugin"
TRIAL_LIMIT_S = 2 * IMPORT_LIMIT_S + 20.0
"""An import, a constructor, and starting Python under load (guess)."""


@dataclass
class PluginTrials:
    """Tries each class once.

    Attributes:
        folder: The config file's, where the agent works.
        hidden: Environment variables of ours that its code does not get.
    """

    folder: Path
    hidden: Collection[str] = ()
    _done: dict[PluginUse, TriedPlugin] = field(default_factory=dict)

    def __call__(self, use: PluginUse) -> TriedPlugin:
        """Try it.

        Raises:
            ConfigError: It is named wrongly, or a parameter is wrong.
        """
        meant = replace(use, file=None, at=()) if use.is_bare else use  # where it is named is for errors only
        if meant not in self._done:
            self._done[meant] = self._try(use)
        return self._done[meant]

    def _try(self, use: PluginUse) -> TriedPlugin:
        inherited = {name: value for name, value in os.environ.items() if name not in self.hidden}
        env = {**inherited, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, "-m", "agenttune", COMMAND]
        try:
            done = subprocess.run(
                command,
                check=False,
                input=_packed(use),
                capture_output=True,
                text=True,
                timeout=TRIAL_LIMIT_S,
                cwd=self.folder,
                env=env,
            )
        except subprocess.TimeoutExpired:
            return TriedPlugin(f"{use.kind} {use.reference} cannot be used: it was not ready after {TRIAL_LIMIT_S:g} s")
        return _unpacked(use, done)


def _packed(use: PluginUse) -> str:
    file = None if use.file is None else str(use.file.resolve())
    return json.dumps(
        [use.kind, use.reference, [str(folder.resolve()) for folder in use.folders], file, use.at, use.is_bare]
    )


def _unpacked(use: PluginUse, done: subprocess.CompletedProcess[str]) -> TriedPlugin:
    try:
        told = json.loads(done.stdout)
    except ValueError:
        last = (done.stderr.strip().splitlines() or [""])[-1]
        how = f"its code ended the process (exit status {done.returncode}) {last}".strip()
        return TriedPlugin(f"{use.kind} {use.reference} cannot be used: {how}")
    if "error" in told:
        raise ConfigError(told["error"], field=told["field"], allowed=told["allowed"])
    return TriedPlugin(**told)


def try_here(packed: str) -> str:
    """In the process of its own: what came of it, as JSON."""
    kind, reference, folders, file, at, is_bare = json.loads(packed)
    path = None if file is None else Path(file)
    use = PluginUse(kind, reference, tuple(map(Path, folders)), path, tuple(at), is_bare)
    try:
        found = find_plugin(use)
        made = found.make(**{CONTEXT: PolicyContext(project=use.folders[-1])})
    except PluginFault as fault:
        return json.dumps({"fault": fault.message})
    except ConfigError as error:
        return json.dumps({"error": error.message, "field": error.field, "allowed": error.allowed})
    return json.dumps({"name": made.name if kind == "detector" else ""})


def find_plugin(use: PluginUse) -> PluginClass:
    """Import a class of any kind; as `find_class`."""
    if use.kind == "policy":
        return find_class(use, Policy, [CONTEXT])
    if use.kind == "detector":
        return find_detector(use)
    if use.kind == "approver":
        return find_class(use, Approver)
    if use.kind == "channel":
        return find_class(use, Channel)
    from agenttune.trainer import PlainAdapter  # loads torch, seconds that nobody else here needs

    return find_class(use, PlainAdapter)
