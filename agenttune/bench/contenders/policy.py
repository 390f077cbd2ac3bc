"""Policies behind the gate: any that ships, any file or class of the user's own, and the one that does nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from pydantic import Field

from agenttune.bench.answers import KeptAnswers
from agenttune.bench.cell import Outcome
from agenttune.bench.contenders.contender import Contender, ContenderSettings, Trial, register
from agenttune.bench.in_process import InProcessAgent, Person
from agenttune.bench.seeds import seeded
from agenttune.bench.settings import BenchSettings
from agenttune.config.setting import Settings
from agenttune.policy.base import Decision, PolicyContext
from agenttune.policy.load import LoadedPolicy, open_policy
from agenttune.policy.wrappers.wrapper import Wrapper
from agenttune.protocol.observation import Observation


class PersonSettings(Settings):
    """A simulated person, who is asked about every command."""

    delay_steps: int = Field(20, ge=0)
    """Steps until the answer."""
    rejects: float = Field(0.0, ge=0, le=1)
    """Part of the requests that is rejected, at random."""


class PolicySettings(ContenderSettings):
    """A policy behind the gate."""

    policy: str
    """Its name, its file, or a class of the user's own, as in `config.yaml`."""
    model: str | None = None
    """Language model, instead of the suite's `llm.model`."""
    base_url: str | None = None
    """Its endpoint, instead of the suite's `llm.base_url`."""
    phase: Literal["plan", "act", "both"] = "both"
    """When the policy is asked: only at the first decision of a run (plan), only after it (act), or always."""
    person: PersonSettings | None = None
    """Who approves; nobody by default: the gate's guardrails alone."""
    deliver: Literal["last", "best"] = "last"
    """The weights that are scored: those at the end, or those of the best evaluation (checkpoints.load_best_at_end)."""


@register
class PolicyContender(Contender):
    """Acts through the gate, in lockstep."""

    name, about, role = "policy", "a policy behind the gate", "policy"
    settings = PolicySettings
    acts_through_gate = True
    given: PolicySettings

    def play(self, trial: Trial) -> Outcome:
        settings = BenchSettings.model_validate(trial.cell.settings)
        changes = {k: v for k, v in (("model", self.given.model), ("base_url", self.given.base_url)) if v is not None}
        if changes:
            settings = settings.model_copy(update={"llm": settings.llm.model_copy(update=changes)})
        until_step = settings.wake.every_steps
        person = self.given.person
        seed = seeded(trial.cell.scenario.name, trial.cell.seed)
        agent = InProcessAgent(
            trial.folder,
            trial.facts,
            settings,
            lambda context: self._open(replace(context, seed=seed), until_step),
            trial.project,
            None if person is None else Person(person.delay_steps, person.rejects, seed),
            None if trial.answers is None else KeptAnswers(trial.answers),
            trial.steps_left,
            self.given.deliver == "best",
        )
        try:
            return agent.outcome(trial.train(agent=agent.agent, hooks=[agent.watch])).model_copy(
                update={"fault": trial.fault}
            )
        finally:
            agent.close()

    def _open(self, context: PolicyContext, until_step: int) -> LoadedPolicy:
        loaded = open_policy(self.given.policy, context)
        if self.given.phase != "both":
            loaded = replace(loaded, policy=Phase(loaded.policy, self.given.phase == "plan", until_step))
        return loaded


@dataclass(eq=False)
class Phase(Wrapper):
    """Asks the policy inside in one phase of a run only: when it is asked first, or ever after.

    Attributes:
        is_plan: The first.
        until_step: Where that phase ends.
    """

    is_plan: bool
    until_step: int

    def decide(self, observation: Observation) -> Decision:
        if (observation.step <= self.until_step) == self.is_plan:
            return self.inner.decide(observation)
        return Decision(reason="not its phase of the run", skipped=True)


@register
class Sham(Contender):
    """Asks a policy that does nothing: what taking part costs."""

    name, about, role = "sham", "the agent takes part and does nothing", "reference"
    acts_through_gate = True

    def play(self, trial: Trial) -> Outcome:
        return PolicyContender(PolicySettings(policy="noop")).play(trial)
