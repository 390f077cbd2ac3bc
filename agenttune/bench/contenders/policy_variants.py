"""Policies made of other runs: chance at another's rate, and what was done in a recorded run."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from pydantic import Field

from agenttune.bench.cell import Outcome
from agenttune.bench.contenders.contender import Contender, ContenderSettings, Trial, register
from agenttune.bench.contenders.policy import PolicyContender, PolicySettings
from agenttune.bench.in_process import seeded
from agenttune.policy.base import PolicyContext
from agenttune.policy.baselines import RandomFile, RandomPolicy
from agenttune.policy.load import LoadedPolicy, open_policy
from agenttune.protocol.proposals import TOOK_EFFECT
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

    def play(self, trial: Trial) -> Outcome:
        aside = trial.folder / "like"
        aside.mkdir()
        like = PolicyContender(PolicySettings(policy=self.given.like)).play(replace(trial, folder=aside))
        changes = sum(made.state in TOOK_EFFECT for made in like.interventions)
        every_steps = max(1, trial.budget // (changes + 1)) if changes else trial.budget + 1
        seed = seeded("matched random", trial.cell.scenario.name, trial.cell.seed)
        file = RandomFile(type="random", seed=seed, every_steps=every_steps, max_factor=self.given.max_factor)
        policy = RandomPolicy(f"random like {self.given.like}", file)
        return _Made(LoadedPolicy(policy, Path(policy.name), "")).play(trial)


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

    def play(self, trial: Trial) -> Outcome:
        path = trial.project / self.given.run
        if path.suffix in (".yaml", ".yml"):
            return _Made(open_policy(str(path), PolicyContext(trial.project))).play(trial)
        log = RunLog.open(path)
        try:
            text = distill(log).text
        finally:
            log.close()
        with tempfile.TemporaryDirectory() as folder:
            schedule = Path(folder) / f"{path.name}.yaml"
            schedule.write_text(text, encoding="utf-8")
            loaded = open_policy(str(schedule), PolicyContext(trial.project))
        return _Made(loaded).play(trial)
