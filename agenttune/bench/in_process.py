"""An agent in the training's own process: the run's real log, gate and agent loop, without HTTP.

The decisions are those of `agenttune run` in lockstep; what policies are told of time goes by steps, so that nothing
depends on the load of the machine.
"""

from __future__ import annotations

import concurrent.futures
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from agenttune.agent import AgentLoop
from agenttune.bench.answers import CHECKPOINT_END, KeepingContext, KeptAnswers
from agenttune.bench.catalog import TaskFacts
from agenttune.bench.cell import Intervention, Outcome
from agenttune.bench.own_detectors import detectors_of_cell
from agenttune.bench.settings import BenchSettings
from agenttune.bench.total_steps import TotalSteps
from agenttune.bench.training import Agent, Hook, Live, Trained
from agenttune.config import CheckpointSettings, GateSettings, GoalSettings, WakeSettings, with_limits_of
from agenttune.control import LocalControl
from agenttune.control.control import ApprovalDecision
from agenttune.control.reader import ControlReader
from agenttune.detectors.effects import is_change
from agenttune.errors import AlreadyDecided, UserError
from agenttune.policy.base import PolicyContext
from agenttune.policy.load import LoadedPolicy
from agenttune.policy.plugins import StandIn
from agenttune.policy.wrappers.availability import check_can_act
from agenttune.policy.wrappers.wrapper import walk
from agenttune.protocol.events import POLICY_FAILED, Decided, Found, NoteAdded
from agenttune.protocol.observation import Observation
from agenttune.protocol.proposals import Author, CommandRecord
from agenttune.protocol.reads import R, RunQuery, Series
from agenttune.protocol.run_info import RunInfo
from agenttune.protocol.text import pairs
from agenttune.store.journal.costs import costs_of_run
from agenttune.store.journal.goal_metric import EVERYTHING
from agenttune.store.run_log import RunLog
from agenttune.trainer.execution.lockstep import AUTHOR as LOCKSTEP

RUN_ID = "run"
EPOCH_S, STEPS_PER_S = 1_700_000_000.0, 10.0
"""When every run of the benchmark begins, and its pace, as far as policies are told (guess: no policy goes by them)."""
POLL_S = 0.02
"""How long training waits at most before it looks whether a policy that still thinks has asked for something."""
UNLIMITED_PER_MINUTE = 1_000_000
"""A run of the benchmark has a minute's commands in a second."""
MOVES = frozenset({"load_checkpoint", "stop_training"})
"""Commands that change where training stands, though no setting."""
PERSON = Author(principal="operator", name="simulated")


class PolicyBroke(Exception):
    """A policy that is needed could not be made, or failed."""


class StepClockControl(LocalControl):
    """`LocalControl` that tells time by steps, and nothing of the machine's load."""

    def read(self, run_id: str, query: RunQuery[R]) -> R:
        found = super().read(run_id, query)
        if isinstance(found, Observation):
            return cast(R, _by_steps(found))
        if isinstance(found, Series):
            left = [series for series in found.series if not is_of_the_machine(series.name)]
            return cast(R, found.model_copy(update={"series": left}))
        return found


def is_of_the_machine(metric: str) -> bool:
    """Whether a metric tells of the machine and its load rather than of the training."""
    return metric == "memory_bytes" or metric.endswith(("_s", "_per_second", "runtime"))


def _by_steps(observation: Observation) -> Observation:
    now_s = EPOCH_S + observation.step / STEPS_PER_S
    evaluations = [
        e.model_copy(update={"metrics": {k: v for k, v in e.metrics.items() if not is_of_the_machine(k)}})
        for e in observation.evaluations
    ]
    return observation.model_copy(
        update={
            "at_s": now_s,
            "last_step_at_s": now_s,
            "started_at_s": EPOCH_S,
            "steps_per_s": STEPS_PER_S,
            "series": {name: view for name, view in observation.series.items() if not is_of_the_machine(name)},
            "evaluations": evaluations,
        }
    )


@dataclass(frozen=True)
class Person:
    """A person at the gate, simulated.

    Attributes:
        delay_steps: How long an answer takes; it comes with the next decision after that.
        rejects: Part of the requests that is rejected.
        seed: Of that choice.
    """

    delay_steps: int
    rejects: float
    seed: int

    def look(self, control: LocalControl, run_id: str) -> None:
        """Decide on what has waited long enough."""
        step = control.info(run_id).step
        for record in control.pending(run_id):
            asked = record.proposal.based_on_step or 0
            if record.request is not None and step >= asked + self.delay_steps:
                draw = random.Random(f"{self.seed}:{record.command.kind}:{asked}").random()
                verdict = ApprovalDecision(
                    verdict="reject" if draw < self.rejects else "approve",
                    digest=record.request.digest,
                    author=PERSON,
                    reason="simulated",
                )
                try:
                    control.decide(run_id, record.command_id, verdict)
                except (AlreadyDecided, UserError):  # its time was up, or it no longer passes: the log says so
                    continue


class Watch(Hook):
    """Sees how many steps are paid for.

    Attributes:
        live: The training, once it has begun.
    """

    live: Live | None = None

    def started(self, live: Live) -> None:
        self.live = live


ASK_A_PERSON: dict[str, Any] = {"name": "simulated person", "approvers": ["human"], "timeout_s": 86_400.0}


class InProcessAgent:
    """One agent for one training.

    Args:
        folder: Of runs; empty.
        facts: The task.
        settings: Of gate, budgets, probation and wake-ups.
        open_policy: Makes the policy for the run that it is to steer.
        project: Folder that relative paths count from.
        person: Decides on every command of the agent, where there is one.
        answers: Those of language models, which are kept there.
        budget: Optimizer steps that the training may make: a probe that no longer fits into it is refused.
        delivers_best: Whether the weights of the best evaluation are put into the model at the end.
    """

    def __init__(
        self,
        folder: Path,
        facts: TaskFacts,
        settings: BenchSettings,
        open_policy: Callable[[PolicyContext], LoadedPolicy],
        project: Path,
        person: Person | None = None,
        answers: KeptAnswers | None = None,
        budget: int | None = None,
        delivers_best: bool = False,
    ) -> None:
        self._budget, self._budgets, self.watch = budget, settings.budgets, Watch()
        self._folder, self._person = folder, person
        wake = settings.wake.model_copy(update={"mode": "lockstep"})
        goal = GoalSettings(metric=facts.metric, direction=facts.direction)
        RunLog.create(folder / RUN_ID, _info(facts, settings, wake, goal, person, delivers_best)).close()
        self.control = StepClockControl(folder)
        reader = ControlReader(self.control, RUN_ID)
        context = KeepingContext(
            project, goal, settings.llm, settings.budgets, reader=reader, asker=reader, answers=answers
        )
        context = replace(context, detectors=detectors_of_cell(settings, folder, context))
        loaded = open_policy(context)
        _refuse_broken(loaded)
        if loaded.gate is not None:
            limits = with_limits_of(loaded.gate, settings.gate)
            log = self.control.log(RUN_ID)
            log.update_info(rules=log.info().rules | {"gate": _gate(limits, person)})
        self._loop = AgentLoop(
            self.control,
            RUN_ID,
            loaded.policy,
            wake,
            details=loaded.details,
            detectors=context.detectors,
            clock_s=lambda: 0.0,
            shutdown_grace_s=0.0,
        )
        self._limit_s, self._poll_s = wake.lockstep_limit_s, min(wake.poll_s, POLL_S)

    @property
    def agent(self) -> Agent:
        """For `Trial.train`."""
        return Agent(self._folder, RUN_ID, self._consult)

    def _consult(self) -> None:
        self._limit_probes()
        if self._person is not None:
            self._person.look(self.control, RUN_ID)
        self._loop.tick()
        if waiting := self._loop.thinking:
            concurrent.futures.wait(waiting, self._poll_s, concurrent.futures.FIRST_COMPLETED)

    def _limit_probes(self) -> None:
        """Let probes have what is left of the budget, but for the one step that follows them."""
        if self._budget is None or self.watch.live is None:
            return
        log = self.control.log(RUN_ID)
        left = log.extra_steps() + max(0, self._budget - self.watch.live.total_steps - 1)
        info, own, most = log.stored_info(), self._budgets.max_probe_steps, self._budgets.max_probe_frac
        if most is not None and info.max_steps is not None and left >= most * info.max_steps:
            return
        rules = self._budgets.model_dump(mode="json") | {"max_probe_steps": left if own is None else min(own, left)}
        if rules != info.rules["budgets"]:
            log.update_info(rules=info.rules | {"budgets": rules})

    def outcome(self, trained: Trained) -> Outcome:
        """What the log says of the agent's part; `failure` if the policy raised or hung."""
        self._loop.detach("the run has ended")
        return outcome_of(self.control.log(RUN_ID), trained)

    def close(self) -> None:
        """Let go of the log."""
        self.control.log(RUN_ID).close()


def outcome_of(log: RunLog, trained: Trained) -> Outcome:
    """What a run's log says of the agent's part; `failure` if its policy raised or hung, beside what it had done."""
    found = [event for event in log.events(kinds=["found"], limit=EVERYTHING) if isinstance(event.body, Found)]
    total = TotalSteps(log)
    asked = {event.command_id: event.seq for event in log.events(kinds=["proposed"], limit=EVERYTHING)}
    cost, _ = costs_of_run(log)
    records = log.commands(principal="agent", limit=EVERYTHING)
    return Outcome(
        trained=trained,
        interventions=[_intervention(record, total, asked[record.command_id]) for record in records],
        changes=sum(record.ack is not None and is_change(record.ack) for record in records),
        findings=[event.body.finding for event in found if isinstance(event.body, Found)],
        found_steps=[total.at(event.seq, event.step or 0) for event in found],
        tokens_in=cost.input_tokens,
        tokens_out=cost.output_tokens,
        calls=cost.calls,
        usd=cost.usd or 0.0,
        failure=_failure(log),
    )


def _info(
    facts: TaskFacts,
    settings: BenchSettings,
    wake: WakeSettings,
    goal: GoalSettings,
    person: Person | None,
    delivers_best: bool,
) -> RunInfo:
    rules = {
        "gate": _gate(settings.gate, person),
        "budgets": settings.budgets.model_dump(mode="json"),
        "probation": settings.probation.model_dump(mode="json"),
        "wake": wake.model_dump(mode="json"),
        "checkpoints": CheckpointSettings(load_best_at_end=delivers_best).model_dump(mode="json"),
    }
    return RunInfo(
        run_id=RUN_ID,
        name=facts.name,
        status="starting",
        created_at_s=EPOCH_S,
        goal_metric=goal.metric,
        goal_direction=goal.direction,
        rules=rules,
    )


def _gate(settings: GateSettings, person: Person | None) -> dict[str, Any]:
    asked = {} if person is None else {"approval": [ASK_A_PERSON]}
    return settings.model_dump(mode="json") | {"max_per_minute": UNLIMITED_PER_MINUTE} | asked


def _refuse_broken(loaded: LoadedPolicy) -> None:
    broken = [part.why for part in walk(loaded.policy) if isinstance(part, StandIn) and part.why]
    if broken:
        raise PolicyBroke("; ".join(broken))
    check_can_act(loaded.policy, loaded.policy.name)


def _has_failed(decided: Decided) -> bool:
    told = " ".join([decided.reason, *decided.faults])
    return POLICY_FAILED in told or decided.woken_by.startswith("detector ")


def _failure(log: RunLog) -> str:
    """How policy or detector failed in a run, if one did: the first time that it raised, or was silent for too long."""
    for event in log.events(kinds=["decided"], limit=EVERYTHING):
        body = event.body
        if isinstance(body, Decided) and _has_failed(body):
            return f"at step {event.step}: {body.reason}"
    notes = [event.body for event in log.events(kinds=["note_added"], limit=EVERYTHING)]
    return next((note.text for note in notes if isinstance(note, NoteAdded) and note.author == LOCKSTEP), "")


def _intervention(record: CommandRecord, total: TotalSteps, seq: int) -> Intervention:
    proposal = record.proposal
    step = proposal.based_on_step or 0
    values = pairs(record.command.telling())
    return Intervention(
        kind=record.command.kind,
        step=step,
        total_steps=total.at(seq, step),
        state=record.state.value,
        words=CHECKPOINT_END.sub("*", f"{values}: {proposal.rationale}")[
            :500
        ],  # drawn anew: results are the same again
        changed=record.ack is not None and (is_change(record.ack) or record.command.kind in MOVES),
    )
