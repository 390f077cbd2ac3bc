"""Classes as strangers would write them, and an installed package made of two files."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from agenttune.config import plugins

MINE = '''
"""Policies and detectors of somebody's own."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, Field

from agenttune.detectors import Detector, Finding
from agenttune.policy import Decision, Draft, Policy, PolicyContext
from agenttune.protocol.commands import UpdateOptimizer

print("a plug-in that talks while it is imported")


class Plain(Policy):
    """Only watches."""

    def decide(self, observation):
        print("deciding")
        return Decision(reason="nothing to do")


@dataclass
class Halve(Policy):
    """Halves the rate once, from a step on."""

    at_step: int = 10
    factor: Annotated[float, Field(gt=0, lt=1, description="What the rate is multiplied with.")] = 0.5

    def decide(self, observation):
        if observation.step < self.at_step or observation.commands:
            return Decision(reason="not now")
        rate = observation.knob("lr").effective
        return Decision([Draft(UpdateOptimizer(lr=rate * self.factor), "a stranger's idea")], "time to halve")


class Limits(BaseModel):
    limit: int = 3
    mode: str = "a"


class WithSettings(Policy):
    def __init__(self, settings: Limits, context: PolicyContext):
        self.settings, self.context = settings, context

    def decide(self, observation):
        return Decision(reason=f"{self.settings.mode} {self.settings.limit} {self.context.goal.metric}")


class Raises(Policy):
    def decide(self, observation):
        raise ValueError("oh no")


class Exits(Policy):
    def decide(self, observation):
        raise SystemExit(3)


class Nonsense(Policy):
    def decide(self, observation):
        return 42


class NoDrafts(Policy):
    def decide(self, observation):
        return Decision([UpdateOptimizer(lr=0.1)])


class NoCommand(Policy):
    def decide(self, observation):
        return Decision([Draft({"kind": "update_optimizer", "lr": 0.1}, "why not")])


class WrongValue(Policy):
    def decide(self, observation):
        return Decision([Draft(UpdateOptimizer(lr=-3.0), "down")])


class Undecided(Policy):
    pass


class NotOne:
    pass


class Untyped(Policy):
    def __init__(self, x=3):
        pass

    def decide(self, observation):
        return Decision()


class Greedy(Policy):
    def __init__(self, gate: dict = None):
        pass

    def decide(self, observation):
        return Decision()


class Broken(Policy):
    def __init__(self):
        raise RuntimeError("no model file")

    def decide(self, observation):
        return Decision()


class Odd(Detector):
    """The step is no multiple of a number."""

    name = "odd_step"
    severity = "info"

    def __init__(self, every: int = 2):
        self.every = every

    def detect(self, observation):
        if observation.step % self.every:
            yield self.finding(f"step {observation.step}", metric="step", step=observation.step)


class Shaky(Detector):
    """Works on even steps only."""

    name = "shaky"

    def detect(self, observation):
        if observation.step % 2:
            raise KeyError("series")
        return [self.finding("even", metric="step", step=observation.step)]


class Evil(Detector):
    """Goes around the checks of a finding."""

    name = "evil"

    def detect(self, observation):
        return [Finding.model_construct(kind="\\n# Rules", summary="x")]


class Unnamed(Detector):
    """Forgot its name."""

    def detect(self, observation):
        return []


class Loud(Detector):
    """Not so grave as it says."""

    name = "loud"
    severity = "catastrophe"

    def detect(self, observation):
        return []


class Spike(Detector):
    """Takes a name that is taken."""

    name = "spike"

    def detect(self, observation):
        return []
'''

FILES = {
    "mine.py": MINE,
    "broken.py": 'raise RuntimeError("at module level")\n',
    "quits.py": "import os\nos._exit(3)\n",
    "exits.py": "import sys\nsys.exit(3)\n",
    "syntax.py": "def (\n",
    "hangs.py": "import threading\nthreading.Event().wait()\n",
    "notes.txt": "no Python\n",
    "beside.py": "from helper import NAME\nfrom mine import Plain\n\nclass Beside(Plain):\n    name = NAME\n",
    "helper.py": 'NAME = "helped"\n',
}


def write_plugins(folder: Path) -> Path:
    """The files in a folder."""
    for name, text in FILES.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "folder").mkdir()
    return folder


def install(
    folder: Path, monkeypatch: pytest.MonkeyPatch, groups: Mapping[str, Mapping[str, str]], package: str = "strangers"
) -> None:
    """As pip would leave a package: its metadata with entry points, in a folder that Python looks through."""
    info = folder / f"{package}-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n", encoding="utf-8")
    sections = ["\n".join([f"[{group}]", *(f"{n} = {v}" for n, v in names.items())]) for group, names in groups.items()]
    (info / "entry_points.txt").write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    # Folders of other tests' plugins stay behind everything else in the path, but before what comes now.
    monkeypatch.setattr(sys, "path", [*(p for p in sys.path if p not in plugins._plugin_folders), str(folder)])
    # What another test has imported under the same name is not what lies there.
    for target in (target for names in groups.values() for target in names.values()):
        monkeypatch.delitem(sys.modules, target.partition(":")[0].partition(".")[0], raising=False)
