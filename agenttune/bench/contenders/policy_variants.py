"""Policies made of other runs: chance at another's rate, and what was done in a recorded run."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import Field

from agenttune.bench.cell import Outcome
from agenttune.bench.contenders.contender import Contender, ContenderSettings, Trial, register
from agenttune.bench.contenders.policy import PolicyContender, PolicySettings
from agenttune.bench.in_process import PolicyBroke
from agenttune.bench.seeds import seeded
from agenttune.config.resources import SUFFIXES
from agenttune.errors import AgenttuneError, ConfigError
from agenttune.policy.base import PolicyContext
from agenttune.policy.baselines import RandomFile, RandomPolicy
from agenttune.policy.load import LoadedPolicy, open_policy
from agenttune.replay.distill import distill
from agenttune.store.run_log import RunLog


class MatchedRandomSettings(ContenderSettings):
    """Changes of the learning rate at random, as many as another policy makes in the same cell."""

    like: str = "guardian"
    """That policy; its own run is not paid for."""
    max_factor: float = Field(10.0, gt=1)
    """Largest factor of one change, up or down."""


class _Made(PolicyContender):
    """A policy that was made for the cell."""

    def __init__(self, loaded: LoadedPolicy) -> None:
        super().__init__(PolicySettings(policy=loaded.policy.name))
        self._loaded = loaded

    def _open(self, context: PolicyContext, until_step: int) -> LoadedPolicy:
        return self._loaded


@register
class MatchedRandom(Contender):
    """Chance, at the rate of another policy: what is left of that policy's gain is its judgement."""

    name, about, role = "matched_random", "random changes, as many as another policy makes", "policy"
    settings = MatchedRandomSettings
    acts_through_gate = True
    policies = ("like",)
    given: MatchedRandomSettings

    def looks_up(self) -> dict[str, Any]:
        return {"type": PolicyContender.name, "policy": self.given.like}

    def play(self, trial: Trial) -> Outcome:
        changes = self._changes_of_like(trial)
        every_steps = max(1, trial.budget // (changes + 1)) if changes else trial.budget + 1
        seed = seeded("matched random", trial.cell.scenario.name, trial.cell.seed)
        file = RandomFile(type="random", seed=seed, every_steps=every_steps, max_factor=self.given.max_factor)
        policy = RandomPolicy(f"random like {self.given.like}", file)
        return _Made(LoadedPolicy(policy, Path(policy.name), "")).play(trial)

    def _changes_of_like(self, trial: Trial) -> int:
        """How often the other policy changes something; a probe that adopts nothing is no change.

        Raises:
            PolicyBroke: That policy failed, so that nobody knows.
        """
        if trial.looked_up is not None and trial.looked_up.changes is not None:
            return trial.looked_up.changes
        aside = trial.folder / "like"
        aside.mkdir()
        like = PolicyContender(PolicySettings(policy=self.given.like)).play(replace(trial, folder=aside))
        if like.failure:
            raise PolicyBroke(f"{self.given.like}, whose rate is wanted, failed: {like.failure}")
        return like.changes or 0


class ReplaySettings(ContenderSettings):
    """What was done in a recorded run, done again at the same steps."""

    run: str
    """Folder of the run, with its log; or a schedule that `agenttune distill` wrote."""


@register
class Replay(Contender):
    """A recorded run's commands on other seeds: whether it was judgement, or luck with one."""

    name, about, role = "replay", "the commands of a recorded run, at the same steps", "policy"
    settings = ReplaySettings
    acts_through_gate = True
    given: ReplaySettings

    def made_of(self, project: Path) -> dict[str, str]:
        try:
            return {self.given.run: hashlib.sha256(self._schedule(project).encode()).hexdigest()}
        except AgenttuneError as error:
            raise ConfigError(f"run: {error}", field="run") from error

    def play(self, trial: Trial) -> Outcome:
        with tempfile.TemporaryDirectory() as folder:
            schedule = Path(folder) / f"{Path(self.given.run).stem}.yaml"
            schedule.write_text(self._schedule(trial.project), encoding="utf-8")
            loaded = open_policy(str(schedule), PolicyContext(trial.project))
        return _Made(loaded).play(trial)

    def _schedule(self, project: Path) -> str:
        """The policy file that a recorded run comes to, or the one that is given."""
        path = project / self.given.run
        if path.suffix in SUFFIXES["policies"]:
            if not path.is_file():
                raise ConfigError(f"there is no schedule {path}", field="run")
            return path.read_text(encoding="utf-8")
        log = RunLog.open_to_read(path)
        try:
            return distill(log).text
        finally:
            log.close()
