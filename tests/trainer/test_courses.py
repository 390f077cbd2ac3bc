"""The course that is told is the one that the schedule takes, group by group, and the rates told are those of now."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Optimizer, lr_scheduler
from transformers.optimization import get_scheduler

from agenttune.control import LocalControl
from agenttune.protocol.lr_course import LrCourse
from agenttune.protocol.metrics import rate_name
from agenttune.protocol.reads import KnobsQuery
from agenttune.trainer.lr.lr_course import EXACT_STEPS, course_of
from agenttune.trainer.lr.lr_reader import LearningRateReader
from agenttune.trainer.lr.schedules import Schedule
from tests.trainer.conftest import At, Bench
from tests.trainer.test_rates import TORCH, TRANSFORMERS, two_groups

pytestmark = pytest.mark.trainer
STEPS = 18
SEEN_AT = 4
Make = Callable[[Optimizer], Any]


def of_transformers(name: str) -> Make:
    how = TRANSFORMERS[name]
    special = how.get("lr_scheduler_kwargs", {})
    return lambda o: get_scheduler(name, o, how.get("warmup_steps", 0), STEPS, scheduler_specific_kwargs=special)


MAKES: dict[str, Make] = {
    **{name: of_transformers(name) for name in TRANSFORMERS},
    **TORCH,
    "a function a group": lambda o: lr_scheduler.LambdaLR(o, [lambda t: 1 - t / 40, lambda t: 1 / (1 + t)]),
    "none": lambda o: None,
}


def optimizer_of(rates: tuple[float, ...] = (1e-3, 2e-4)) -> SGD:
    return SGD([{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates], lr=rates[0])


def train(optimizer: Optimizer, scheduler: Any, steps: int) -> list[list[float]]:
    used = []
    for _ in range(steps):
        used.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    return used


@pytest.mark.parametrize("name", MAKES)
def test_the_rates_to_come_are_those_that_come(name: str) -> None:
    optimizer = optimizer_of()
    scheduler = MAKES[name](optimizer)
    train(optimizer, scheduler, SEEN_AT)
    course = course_of(Schedule(optimizer, scheduler), SEEN_AT, STEPS, points=STEPS)
    assert course is not None
    used = train(optimizer, scheduler, STEPS - SEEN_AT)
    for group in (0, 1):
        told = dict(zip(course.steps, course.rates(group), strict=True))
        for step, rates in enumerate(used, SEEN_AT):
            assert told.get(step, rates[group]) == pytest.approx(rates[group], rel=1e-9)
        assert max(course.highest(group)) >= max(rates[group] for rates in used) * (1 - 1e-9)
        assert min(course.lowest(group)) <= min(rates[group] for rates in used) * (1 + 1e-9)
    assert course.steps[0] == SEEN_AT
    assert f"{used[0][0]:g}" in course.text


@pytest.mark.parametrize("name", MAKES)
@pytest.mark.parametrize("points", [5, 24])
def test_what_is_told_later_is_of_later(name: str, points: int) -> None:
    """Seen before: "0 now, highest 0.001 at step 200" at step 1372, where the rate was 0.00086."""
    optimizer = optimizer_of()
    scheduler = MAKES[name](optimizer)
    course = course_of(Schedule(optimizer, scheduler), 0, STEPS, points=points)
    assert course is not None
    for step in range(1, STEPS + 3):
        train(optimizer, scheduler, 1) if step <= STEPS else None
        now = [group["lr"] for group in optimizer.param_groups]
        later = course.from_now(step, now)
        assert later.steps == [step, *(at for at in course.steps if at > step)]
        assert [later.rates(group)[0] for group in (0, 1)] == pytest.approx(now)
        assert later.rates(1)[1:] == course.rates(1)[len(course.steps) - len(later.steps) + 1 :]
        assert later.text.startswith(f"{course.kind}: {now[0]:g}")
        assert all(int(at) >= step for at in re.findall(r"step (\d+)", later.text))
        guessed = course.from_now(step).rates(0)[0]
        assert min(course.lowest(0)) * (1 - 1e-9) <= guessed <= max(course.highest(0)) * (1 + 1e-9)
        fresh = course_of(Schedule(optimizer, scheduler), step, STEPS, points=STEPS)
        if fresh is not None and step < STEPS:
            assert max(later.highest(0)) >= max(fresh.highest(0)) * (1 - 1e-9)
            assert min(later.lowest(0)) <= min(fresh.lowest(0)) * (1 + 1e-9)


@pytest.mark.parametrize("points", [3, 4])
def test_a_peak_that_is_past_is_not_told_and_one_ahead_is(points: int) -> None:
    """Seen before: "highest 0.001 by step 258" at step 171, after a warm-up of 20 steps."""
    optimizer = optimizer_of()
    course = course_of(Schedule(optimizer, get_scheduler("cosine", optimizer, 6, STEPS)), 0, STEPS, points=points)
    assert course is not None
    assert course.text == "cosine with warmup: 0 now, highest 0.001 at step 6, 0 at step 18"
    assert course.from_now(3).text == "cosine with warmup: 0.0005 now, highest 0.001 at step 6, 0 at step 18"
    assert course.from_now(8, [9.3e-4, 1.86e-4]).text == "cosine with warmup: 0.00093 now, 0 at step 18"
    assert course.from_now(9, [8.6e-4, 1.72e-4]).text == "cosine with warmup: 0.00086 now, 0 at step 18"


def test_a_long_course_keeps_its_extremes() -> None:
    """Restarts lie between the steps that are told; a peak between two of them is still known."""
    steps = 10 * EXACT_STEPS
    optimizer = optimizer_of((1.0,))
    scheduler = get_scheduler("cosine_with_restarts", optimizer, 100, steps, {"num_cycles": 7})
    course = course_of(Schedule(optimizer, scheduler), 0, steps)
    assert course is not None
    assert len(course.steps) < 40
    assert len(course.model_dump_json()) < 6000
    assert max(course.highest(0)) == 1.0
    assert sum(rate > 0.999 for rate in course.highest(0)) >= 7
    again = LrCourse.model_validate_json(course.model_dump_json())
    assert again == course


def test_what_evaluations_may_do_is_told_as_a_reach() -> None:
    optimizer = optimizer_of((1e-3, 2e-4))
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, min_lr=[1e-5, 1e-6])
    course = course_of(Schedule(optimizer, scheduler), 3, 50)
    assert course is not None
    assert not course.is_foretold
    assert (min(course.lowest(1)), max(course.highest(1))) == (1e-6, 2e-4)


class OddRates(lr_scheduler.LRScheduler):
    """Nobody knows what it does."""

    def get_lr(self) -> Any:
        return [rate * (1 + self.last_epoch % 3) for rate in self.base_lrs]


def test_a_schedule_of_an_unknown_class_promises_nothing() -> None:
    optimizer = optimizer_of()
    course = course_of(Schedule(optimizer, OddRates(optimizer)), 3, 50)
    assert course is not None
    assert not course.is_foretold
    assert max(course.highest(0)) == float("inf")
    assert LrCourse.model_validate_json(course.model_dump_json()) == course


@pytest.mark.parametrize("name", MAKES)
def test_one_read_gives_base_and_effective_of_all_groups(name: str) -> None:
    optimizer = optimizer_of()
    scheduler = MAKES[name](optimizer)
    reader = LearningRateReader()
    train(optimizer, scheduler, 3)
    schedule = Schedule(optimizer, scheduler)
    reader.read(optimizer, scheduler)
    groups = range(len(optimizer.param_groups))
    assert [reader.others.get(rate_name("lr", i), reader.lr) for i in groups] == schedule.effective()
    assert [reader.others.get(rate_name("base_lr", i), reader.base_lr) for i in groups] == schedule.base()


def build_two(model: nn.Module) -> tuple[Any, Any]:
    optimizer = SGD(two_groups(model), lr=1e-3)
    return optimizer, lr_scheduler.LambdaLR(optimizer, [lambda t: min(1.0, t / 4), lambda t: 1 - t / 100])


def test_every_reader_sees_the_rates_of_now(bench: Bench) -> None:
    """Seen before: effective 0.001 beside groups [0.0, 0.0], which were those of the start."""
    result = bench.run([At(6, {"kind": "update_optimizer", "weight_decay": 0.1})], build=build_two, max_steps=9)
    control = LocalControl(bench.runs_dir)
    (info,) = control.runs()
    used = result.witness.used[-1]
    rate = control.read(info.run_id, KnobsQuery()).named("lr")
    assert rate is not None
    assert rate.groups == pytest.approx(used)
    assert rate.effective == used[0]
    assert rate.base_groups == [1e-3, 2e-4]
    assert control.observe(info.run_id).knob("lr") == rate
    assert next(knob for knob in info.knobs if knob.name == "lr") == rate
    assert info.schedule is not None
    assert info.schedule.can_be_planned
    assert info.schedule.steps[0] == info.step
    assert [info.schedule.rates(group)[0] for group in (0, 1)] == pytest.approx(used)
    assert result.series("lr_1")[-1] == pytest.approx(used[1])


def test_groups_of_one_rate_cost_no_series(bench: Bench) -> None:
    result = bench.run(max_steps=4, weight_decay=0.1)
    assert result.series("lr_1") == []
    (info,) = LocalControl(bench.runs_dir).runs()
    rate = next(knob for knob in info.knobs if knob.name == "lr")
    assert rate.groups == result.witness.used[-1]


def test_a_schedule_that_is_laid_out_for_fewer_steps_than_the_run_leaves_its_last_rate() -> None:
    """Seen: OneCycleLR over a tenth of the run; nothing was known of the rest, and no collapsed schedule was found."""
    optimizer = optimizer_of()
    scheduler = lr_scheduler.OneCycleLR(optimizer, [1e-3, 2e-4], total_steps=STEPS, cycle_momentum=False)
    for done in (SEEN_AT, STEPS - 1):
        train(optimizer, scheduler, done - scheduler.last_epoch)
        course = course_of(Schedule(optimizer, scheduler), done, 10 * STEPS)
        assert course is not None
        assert course.is_foretold
        assert course.steps[-1] == 10 * STEPS
        assert course.rates(0)[-1] < 2e-5
