"""`update_schedule` over every schedule of torch: the rates used are those that were promised, and the way back too."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD, AdamW, lr_scheduler

import agenttune
from agenttune.gate.lr_forecast import prospects
from agenttune.protocol.commands import UpdateSchedule
from agenttune.protocol.lr_plans import make_plan
from agenttune.trainer import Options
from agenttune.trainer.lr.lr_course import course_of
from agenttune.trainer.lr.planned_lr import PREVIOUS, make_plannable, restore_scheduler
from agenttune.trainer.lr.schedules import Schedule
from tests.trainer.rank_loop import newest, put
from tests.trainer.test_rates import TORCH

pytestmark = pytest.mark.trainer
STEPS = 20


def falling(k: int) -> Callable[[int], float]:
    return lambda t: 1 / (1 + k * t)


class Own:
    """A loop's own schedule, of no class of torch's."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer, self.count = optimizer, 0

    def step(self) -> None:
        self.count += 1
        for group in self.optimizer.param_groups:
            group["lr"] *= 0.9

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = state["count"]


@dataclass
class Nameless:
    """One that names no optimizer, and has no hash."""

    rates_of: Any
    count: int = 0

    def step(self) -> None:
        self.count += 1
        for group in self.rates_of.param_groups:
            group["lr"] *= 0.9

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = state["count"]


MAKES: dict[str, Callable[[Any], Any]] = {
    **TORCH,
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 1e-3, total_steps=200, cycle_momentum=False),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda t: 1 - t / 40),
    "a function a group": lambda o: lr_scheduler.LambdaLR(o, [falling(k) for k in range(len(o.param_groups))]),
    "OneCycleLR with momentum": lambda o: lr_scheduler.OneCycleLR(o, 1e-3, total_steps=200),
    "CyclicLR with momentum": lambda o: lr_scheduler.CyclicLR(o, 1e-4, 1e-3, step_size_up=4),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0, factor=0.7),
    "a class of one's own": Own,
    "one that names no optimizer": Nameless,
}
EVERY = {
    "StepLR once an epoch": ("StepLR", 5),
    "LambdaLR once an epoch": ("LambdaLR", 5),
    "a function a group once an epoch": ("a function a group", 5),
    "ReduceLROnPlateau": ("ReduceLROnPlateau", 3),
}
"""Not stepped at each update, but once for so many."""
ONCE_AN_EPOCH = [name for name in EVERY if name.endswith("once an epoch")]
NAMES = [*MAKES, *ONCE_AN_EPOCH]


IN_SESSION = ("a class of one's own", "one that names no optimizer")
"""These take a plan from a state that is loaded once the session is open."""


class Training:
    """An optimizer and its schedule, without weights that matter."""

    def __init__(self, name: str, groups: int) -> None:
        kind, self.every = EVERY.get(name, (name, 1))
        self.model = nn.ParameterList([nn.Parameter(torch.ones(1)) for _ in range(groups)])
        parts = [{"params": [p], "lr": 1e-3 / (1 + i)} for i, p in enumerate(self.model)]
        self.optimizer: Any = SGD(parts, lr=1e-3, momentum=0.9)
        if kind == "OneCycleLR with momentum":
            self.optimizer = AdamW(parts, lr=1e-3)
        self.scheduler = MAKES[kind](self.optimizer)
        self.step = 0
        self.used: list[list[float]] = []
        self.other: list[Any] = []

    def update(self) -> None:
        torch.stack([p.sum() ** 2 for p in self.model]).sum().backward()  # type: ignore[no-untyped-call]
        groups = self.optimizer.param_groups
        self.used.append([float(group["lr"]) for group in groups])
        self.other.append([(group.get("momentum"), group.get("betas")) for group in groups])
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        if self.step % self.every == 0:
            metric = [1.0] if isinstance(self.scheduler, lr_scheduler.ReduceLROnPlateau) else []
            self.scheduler.step(*metric)

    def schedule(self) -> Schedule:
        return Schedule(self.optimizer, self.scheduler)

    def state(self) -> bytes:
        """As a script saves it, and reads it without trusting it."""
        held = io.BytesIO()
        torch.save((self.optimizer.state_dict(), self.scheduler.state_dict(), self.step), held)
        return held.getvalue()

    def load(self, state: bytes) -> None:
        optimizer, scheduler, self.step = torch.load(io.BytesIO(state), weights_only=False)
        self.optimizer.load_state_dict(optimizer)
        restore_scheduler(self.scheduler, scheduler)


# -- all that can be done, in any order ------------------------------------------------------------------------------

PLAN = st.tuples(
    st.just("plan"), st.sampled_from(["linear", "cosine", "wsd", "constant"]), st.integers(0, 3), st.floats(1e-4, 1e-2)
)
ACT = st.one_of(
    st.tuples(st.just("train"), st.integers(1, 4)),
    PLAN,
    PLAN.map(lambda plan: ("undone", *plan[1:])),
    st.sampled_from([("previous",), ("save",), ("load",), ("restart",), ("reverted",)]),
)


def plan(training: Training, shape: Any, warmup: int, peak: float) -> None:
    schedule = training.schedule()
    start = {"warmup_steps": warmup, "start_lr": 1e-5} if warmup else {}
    rates_there = {"peak_lr": peak, "final_lr": 1e-5, "end_step": training.step + 12}
    command = UpdateSchedule.model_validate({"shape": shape, **start, **rates_there})
    made = make_plan(command, training.step, None, peak, schedule.clock)
    made[PREVIOUS] = {"plan": schedule.plan(), "bases": schedule.base()}
    rates = schedule.effective()
    schedule.install_plan([peak * rate / rates[0] for rate in rates], made)


@pytest.mark.quick(
    "StepLR-1",
    "CosineAnnealingWarmRestarts-3",
    "OneCycleLR with momentum-3",
    "CyclicLR-1",
    "SequentialLR-3",
    "ChainedScheduler-1",
    "LambdaLR-3",
    "ReduceLROnPlateau-3",
    "a class of one's own-3",
    "* once an epoch-1",
)
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=8)
@given(acts=st.lists(ACT, max_size=6))
def test_rates_are_those_that_were_promised_whatever_was_done(name: str, groups: int, acts: list[Any]) -> None:
    training = Training(name, groups)
    make_plannable(training.scheduler, training.optimizer)
    plain = Training(name, groups)
    for _ in range(40):
        plain.update()
    saved: bytes | None = None
    for act, *how in [("train", 2), *acts, ("train", 3)]:
        schedule = training.schedule()
        before = schedule.rates()
        if act == "plan":
            plan(training, *how)
        elif act == "undone":  # at once
            undo, then = schedule.snapshot(), schedule.effective()
            plan(training, *how)
            undo()
            assert training.schedule().effective() == then
        elif act == "reverted":  # some steps later, as probation does
            plan(training, "linear", 0, 2e-3)
            training.update()
            training.schedule().restore(before, range(groups))
        elif act == "previous" and PREVIOUS in schedule.plan():
            promised = course_of(schedule, training.step, 60, points=60)
            assert promised is not None
            assert promised.before is not None
            back = [promised.before.rates(g)[0] for g in range(groups)]
            found = schedule.plan()[PREVIOUS]
            schedule.install_plan(found["bases"], found["plan"])
            assert training.schedule().effective() == pytest.approx(back)
        elif act == "save":
            saved = training.state()
        elif act == "load" and saved is not None:
            training.load(saved)
        elif act == "restart":  # a new process: all is built anew, then restored
            state, training = training.state(), Training(name, groups)
            make_plannable(training.scheduler, training.optimizer)
            training.load(state)
        course = course_of(training.schedule(), training.step, training.step + 12, points=13)
        assert course is not None
        is_every_step = training.every == 1 or bool(training.schedule().plan())
        for k in range(how[0] if act == "train" else 0):
            training.update()
            if course.is_foretold and is_every_step:
                assert training.used[-1] == pytest.approx([course.rates(g)[k] for g in range(groups)], rel=1e-9)
        if not training.schedule().plan():  # the run's own, as if nothing had been done
            assert training.schedule().effective() == pytest.approx(plain.used[training.step], rel=1e-9)
        assert list(training.scheduler.get_last_lr() if hasattr(training.scheduler, "get_last_lr") else []) in (
            [],
            training.schedule().effective(),
        )


# -- with the log, the gate and commands -----------------------------------------------------------------------------


@pytest.mark.quick(
    "StepLR-1",
    "CosineAnnealingLR-3",
    "OneCycleLR with momentum-*",
    "SequentialLR-3",
    "LambdaLR-3",
    "ReduceLROnPlateau-3",
    "a class of one's own-3",
    "StepLR once an epoch-3",
)
@pytest.mark.parametrize(
    ("name", "groups"), [*((name, 3) for name in NAMES), ("StepLR", 1), ("OneCycleLR with momentum", 1)]
)
def test_a_plan_by_command_is_what_the_gate_judged_and_is_kept_taken_back_and_restored(
    name: str, groups: int, tmp_path: Path
) -> None:
    plain = Training(name, groups)
    for _ in range(STEPS):
        plain.update()
    asked = {"kind": "update_schedule", "shape": "linear", "peak_lr": 6e-4, "final_lr": 1e-4, "warmup_steps": 2}
    training, saved = Training(name, groups), b""
    options = Options(runs_dir=tmp_path / "runs", server=False)
    with agenttune.session(
        model=training.model,
        optimizer=training.optimizer,
        scheduler=training.scheduler,
        max_steps=STEPS,
        options=options,
    ) as s:
        previous = {"kind": "update_schedule", "shape": "previous"}
        orders: dict[int, dict[str, Any]] = {4: asked, 7: {"kind": "save_checkpoint"}, 10: previous}
        while s.global_step < STEPS:
            training.update()
            if training.step == 4:
                run_state = s.run.session.run_state  # type: ignore[union-attr]
                run_state.step = 4
                info = run_state.as_info()
                judged = prospects(UpdateSchedule.model_validate(asked), info)
            if order := orders.get(training.step):
                put(tmp_path, order, f"at-{training.step}")
            if s.step({"loss": 1.0}):
                break
            if training.step == 7:
                saved = training.state()
    acks = {record.command_id: record.ack for record in newest(tmp_path).commands()}
    assert all(ack is not None and ack.outcome == "applied" for ack in acks.values()), acks
    shares = [rate / plain.used[4][0] for rate in plain.used[4]]
    shape = [0.0, 3e-4, *(6e-4 - 5e-4 * k / 14 for k in range(14))]
    promised = [[rate * share for share in shares] for rate in shape]
    for k, used in enumerate(training.used[4:10]):
        assert used == pytest.approx(promised[k], rel=1e-6, abs=1e-15)
    for prospect in judged:
        for edge, low, high in zip(prospect.edges, prospect.after.low, prospect.after.high, strict=True):
            if 4 <= edge < 10:
                used_there = training.used[edge][prospect.group]
                assert low * (1 - 1e-6) - 1e-15 <= used_there <= high * (1 + 1e-6)
    assert {prospect.group for prospect in judged} == set(range(groups))
    for used, own in zip(training.used[10:], plain.used[10:], strict=True):
        assert used == pytest.approx(own, rel=1e-9), "taken back, as if it had not been"
    assert training.other == plain.other, "momentum moves as the run's own schedule moves it"
    held = [event.body for event in newest(tmp_path).events(kinds=["read_back"])]
    assert all(body.held for body in held)  # type: ignore[union-attr]

    again = Training(name, groups)
    if name not in IN_SESSION:
        again.load(saved)
    with agenttune.session(
        model=again.model,
        optimizer=again.optimizer,
        scheduler=again.scheduler,
        max_steps=STEPS,
        start_step=7,
        options=options,
    ) as s:
        if name in IN_SESSION:
            again.load(saved)
        for _ in range(5):
            again.update()
            s.step({"loss": 1.0})
    for k, used in enumerate(again.used, 3):
        assert used == pytest.approx(promised[k], rel=1e-6), "the restart goes on with the plan"


def test_a_planned_schedule_can_be_copied_and_pickled() -> None:
    training = Training("StepLR", 1)
    make_plannable(training.scheduler, training.optimizer)
    plan(training, "linear", 0, 1e-3)
    for made in (copy.deepcopy(training.scheduler), pickle.loads(pickle.dumps(training.scheduler))):
        assert type(made) is lr_scheduler.StepLR
    assert isinstance(training.scheduler, lr_scheduler.StepLR)
    assert type(training.scheduler).__name__ == "StepLR"


def test_a_schedule_that_cannot_keep_a_plan_is_refused_with_the_reason() -> None:
    class NoState:
        def __init__(self, optimizer: Any) -> None:
            self.optimizer = optimizer

        def step(self) -> None: ...

    optimizer = Training("StepLR", 1).optimizer
    assert "no state_dict and no load_state_dict" in Schedule(optimizer, NoState(optimizer)).unplannable()
    assert "no schedule" in Schedule(optimizer, None).unplannable()
