"""Whatever agents ask for, in whatever order: no rate of any group leaves the bounds at any later step, and what all
commands of a window do together stays within its factor."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD, AdamW, Optimizer, lr_scheduler

from agenttune.config import BudgetSettings, GateSettings
from agenttune.errors import UserError
from agenttune.gate import CommandHistory, Gate
from agenttune.protocol.commands import COMMAND_KINDS
from agenttune.protocol.proposals import Ack, Author, CommandRecord, Proposal, State, Verdict
from agenttune.protocol.run_info import KnobState, RunInfo
from agenttune.trainer.commands.outcomes import AwaitLearningRate, Done
from agenttune.trainer.commands.update_optimizer import update_optimizer
from agenttune.trainer.commands.update_schedule import update_schedule
from agenttune.trainer.knobs import KnobRegistry
from agenttune.trainer.lr.lr_course import course_of
from agenttune.trainer.lr.planned_lr import make_plannable
from agenttune.trainer.lr.schedule_kinds import ScheduleKind
from agenttune.trainer.run_state import RunState
from tests.trainer.test_courses import MAKES

pytestmark = pytest.mark.trainer
STEPS = 40
LOW, HIGH = 1e-5, 5e-3
WINDOW, FACTOR = 12, 4.0
AGENT = Author(principal="agent", name="a")
APPROVED = Verdict(decision="approved", decided_by="auto")
Make = Callable[[Optimizer], Any]
SCHEDULES: dict[str, Make] = {
    **MAKES,
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 1e-3, total_steps=STEPS + 5, cycle_momentum=False),
    "plateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, factor=0.5, patience=0, min_lr=2e-5),
}


class Loop:
    """As much of a training loop as rates need."""

    capabilities = COMMAND_KINDS

    def __init__(self, optimizer: Optimizer, scheduler: Any) -> None:
        self._optimizer, self._scheduler = optimizer, scheduler

    def optimizer(self) -> Optimizer:
        return self._optimizer

    def scheduler(self) -> Any:
        return self._scheduler

    def max_steps(self) -> int:
        return STEPS

    def settings(self) -> list[KnobState]:
        return []


@dataclass
class Desk:
    """Judges, applies and trains; what was in force before each command is kept."""

    name: str
    rates: list[float]
    gate: Gate
    optimizer: Optimizer = field(init=False)
    used: list[list[float]] = field(default_factory=list)
    commands: list[tuple[int, list[list[float]], bool]] = field(default_factory=list)
    """Step, the rates to come without it, and whether it is a plan."""
    records: list[CommandRecord] = field(default_factory=list)
    warmed_up: bool = False
    refused: Verdict | None = None

    def __post_init__(self) -> None:
        groups = [{"params": [nn.Parameter(torch.zeros(2, 2))], "lr": rate} for rate in self.rates]
        self.optimizer = AdamW(groups) if len(self.rates) % 2 else SGD(groups, lr=1.0, momentum=0.5)
        self.scheduler = SCHEDULES[self.name](self.optimizer)
        make_plannable(self.scheduler, self.optimizer)
        self.run_state = RunState(Loop(self.optimizer, self.scheduler), KnobRegistry())  # type: ignore[arg-type]
        self.run_state.learn_groups()
        self.own = self.course()
        self.info = RunInfo(run_id="r", name="r", status="running", created_at_s=0.0, max_steps=STEPS)

    def course(self) -> list[list[float]]:
        """Per group, the highest rate of each step to come."""
        found = course_of(self.run_state.schedule(), self.run_state.step, STEPS, points=STEPS + 1)
        assert found is not None
        spread = [found.highest(g) for g in found.groups]
        return [row if len(row) > STEPS - self.run_state.step else [row[-1]] * (STEPS + 1) for row in spread]

    def ask(self, raw: dict[str, Any]) -> str:
        """Why it is refused; empty if it was applied."""
        proposal = Proposal.model_validate({"command": raw, "author": AGENT})
        refusal = self.gate.refusal(proposal, self.run_state.as_info(self.info), CommandHistory(self.records))
        self.refused = refusal
        if refusal is not None:
            return refusal.reason
        record = CommandRecord(
            proposal=proposal,
            state=State.APPLIED,
            verdict=APPROVED,
            submitted_seq=1,
            submitted_step=self.run_state.step,
        )
        before = self.course()
        apply: Any = update_schedule if raw["kind"] == "update_schedule" else update_optimizer
        try:
            outcome = apply(self.run_state, record, proposal.command)
        except UserError as error:
            return error.message
        done = outcome.done if isinstance(outcome, AwaitLearningRate) else outcome
        assert isinstance(done, Done)
        ack = Ack(outcome="applied", step=self.run_state.step, changes=done.changes)
        self.records.append(record.model_copy(update={"ack": ack}))
        if any(change.name == "lr" for change in done.changes):
            self.commands.append((self.run_state.step, before, apply is update_schedule))
        self.warmed_up |= bool(raw.get("warmup_steps"))
        return ""

    def train(self) -> None:
        self.used.append([float(group["lr"]) for group in self.optimizer.param_groups])
        self.optimizer.step()
        if isinstance(self.scheduler, lr_scheduler.ReduceLROnPlateau):
            if self.run_state.step % 6 == 5:
                self.scheduler.step(1.0)
        elif self.scheduler is not None:
            self.scheduler.step()
        self.run_state.step += 1
        self.run_state.schedule()


rates = st.floats(LOW, HIGH).map(lambda rate: float(f"{rate:.2g}"))
wild = st.sampled_from([0.0, 1e-30, 1e-7, 3e-5, 1e-4, 1e-3, 4e-3, 0.02, 1.0, 100.0]) | rates
optimizer_commands = st.fixed_dictionaries(
    {"kind": st.just("update_optimizer")},
    optional={
        "lr": wild,
        "lr_sets": st.sampled_from(["base", "effective"]),
        "param_group": st.integers(0, 3),
        "weight_decay": st.sampled_from([0.0, 0.01, 0.1, 5.0]),
    },
).filter(lambda raw: "lr" in raw or "weight_decay" in raw)
schedule_commands = st.one_of(
    st.just({"kind": "update_schedule", "shape": "previous"}),
    st.fixed_dictionaries(
        {"kind": st.just("update_schedule"), "shape": st.sampled_from(["constant", "linear", "cosine", "wsd"])},
        optional={
            "peak_lr": wild.filter(bool),
            "final_lr": wild,
            "warmup_steps": st.integers(1, 5),
            "end_step": st.integers(1, STEPS + 10),
        },
    ),
)
orders = st.lists(st.tuples(st.integers(0, STEPS - 1), optimizer_commands | schedule_commands), max_size=12)


LATER_IN_ANOTHER_GROUP: list[tuple[int, dict[str, Any]]] = [
    (9, {"kind": "update_schedule", "shape": "linear"}),
    (22, {"kind": "update_schedule", "shape": "previous"}),
    (24, {"kind": "update_schedule", "shape": "constant", "peak_lr": 1e-7}),
    (30, {"kind": "update_schedule", "shape": "wsd", "peak_lr": 100.0}),
    (39, {"kind": "update_optimizer", "lr": 0.0045, "lr_sets": "effective", "param_group": 2}),
]
"""The plan of step 30 may raise a rate by what two before it took; the last command leaves it so, in other groups."""


@settings(
    max_examples=60, phases=[Phase.explicit, Phase.generate], deadline=None, suppress_health_check=list(HealthCheck)
)
@example("inverse_sqrt", [1.5e-4, 5.1e-4, 1e-3], LATER_IN_ANOTHER_GROUP, True)
@example(
    "plateau",
    [0.0039],
    [(0, {"kind": "update_optimizer", "lr": 0.0}), (13, {"kind": "update_schedule", "shape": "constant"})],
    True,
)
@given(st.sampled_from(sorted(SCHEDULES)), st.lists(rates, min_size=1, max_size=4), orders, st.booleans())
def test_no_rate_leaves_the_bounds_and_no_window_is_exceeded(
    name: str, first: list[float], asked: list[tuple[int, dict[str, Any]]], takes_the_nearest: bool
) -> None:
    first = first[:2] if name == "a function a group" else first
    first = [*first, first[0]][:2] if name == "a function a group" else first
    limits = {"bounds": {"lr": [LOW, HIGH]}, "window": {"steps": WINDOW, "max_change_factor": FACTOR}}
    desk = Desk(name, first, Gate(GateSettings.model_validate(limits), BudgetSettings(max_commands=None)))
    for step in range(STEPS):
        for at, raw in asked:
            if at != step:
                continue
            desk.ask(raw)
            if takes_the_nearest:
                take_the_nearest(desk, raw)
        desk.train()
    check_bounds(desk)
    check_window(desk)


def take_the_nearest(desk: Desk, raw: dict[str, Any]) -> None:
    """What is named as the nearest allowed passes the guardrail that named it, in all groups."""
    for _ in range(8):
        refused = desk.refused
        if refused is None or not refused.nearest_allowed:
            return
        raw = {**raw, **refused.nearest_allowed}
        desk.ask(raw)
        if desk.refused is not None and desk.refused.nearest_allowed:
            before, now = (
                (verdict.decided_by, sorted(verdict.nearest_allowed or {})) for verdict in (refused, desk.refused)
            )
            assert before != now, f"{refused.reason}; and then: {desk.refused.reason}"


def _falls(step: int) -> float:
    """What a decay from the run's start to its end leaves at a step; one that begins later leaves more."""
    progress = step / STEPS
    return min(1 - progress, 0.5 * (1 + math.cos(math.pi * progress)))


def check_bounds(desk: Desk) -> None:
    for group, own in enumerate(desk.own):
        steepest = min((b / a for i, a in enumerate(own) for b in own[i:] if a > 0), default=1.0)
        for step, used in enumerate(desk.used):
            assert math.isfinite(used[group])
            assert used[group] <= max(HIGH, *own) * (1 + 1e-6)
            if not desk.warmed_up and desk.run_state.schedule().kind is not ScheduleKind.METRIC:
                floor = min(LOW, *own) * _falls(step) * steepest
                assert used[group] >= floor * (1 - 1e-6)


def check_window(desk: Desk) -> None:
    # Also where a plan has replaced it since: till then its rates fell as evaluations had it.
    is_known = not isinstance(desk.scheduler, lr_scheduler.ReduceLROnPlateau)
    for step, used in enumerate(desk.used):
        done = [command for command in desk.commands if command[0] <= step]
        if not done:
            continue
        newest, without, _ = done[-1]
        within = [command for command in done if newest - command[0] < WINDOW]
        at, before, _ = within[0]
        for group, rate in enumerate(used):
            ahead = before[group][: step - at + 1]
            # What a command was allowed with more of them in its window stays where a later one leaves it.
            left = without[group][step - newest]
            assert rate <= max(FACTOR * max(ahead), left) * (1 + 1e-6), (desk.name, step, group)
            if is_known and not any(is_plan for *_, is_plan in within):  # a plan may end at zero
                assert rate >= min(ahead[-1] / FACTOR, left) * (1 - 1e-6), (desk.name, step, group)


def test_the_limits_do_not_refuse_everything() -> None:
    """The property above would hold for a gate that lets nothing through."""
    draw = random.Random(3)
    taken = 0
    for _ in range(40):
        limits = {"bounds": {"lr": [LOW, HIGH]}, "window": {"steps": WINDOW, "max_change_factor": FACTOR}}
        gate = Gate(GateSettings.model_validate(limits), BudgetSettings(max_commands=None))
        desk = Desk("linear", [1e-3, 2e-4], gate)
        shape = draw.choice(["linear", "cosine", "wsd", "constant"])
        taken += not desk.ask({"kind": "update_schedule", "shape": shape, "peak_lr": draw.uniform(5e-4, 2e-3)})
        taken += not desk.ask({"kind": "update_optimizer", "lr": 8e-4})
    assert taken == 80
