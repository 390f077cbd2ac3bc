"""Where a run began stays what it was, however long it goes on, on whatever branch, and whoever looks at it when."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agenttune.detectors.trend import Trend
from agenttune.protocol.events import BranchStarted
from agenttune.protocol.metrics import Point
from agenttune.protocol.observation import Observation
from agenttune.store.journal.observer import Observer
from agenttune.store.run_log import RunLog
from agenttune.testing.situations import make_observation


def observe(observer: Observer, log: RunLog) -> Observation:
    return observer.observe(log, log.info(), 0.0, None)


def trend(observation: Observation) -> Trend:
    found = Trend.of(observation)
    assert found is not None
    return found


def rows(first: int, last: int, branch: str = "main") -> list[Point]:
    """The loss of a step is 1000 / step, so that each of them is told apart."""
    return [Point(step=s, at_s=float(s), values={"step_loss": 1000 / s}, branch=branch) for s in range(first, last + 1)]


def test_the_first_loss_stays_for_whoever_looks_on_and_whoever_comes_later(log: RunLog) -> None:
    there = Observer()
    for first, last in pairwise((0, 1, 5, 300, 511, 512, 513, 900, 2600)):
        log.append_points(rows(first + 1, last))
        for observer in (there, Observer()):
            seen = trend(observe(observer, log))
            assert seen.start == 1000
            assert (seen.all_steps[0], seen.all_values[0]) == (1, 1000)
            assert list(seen.all_steps) == sorted(set(seen.all_steps))


def test_the_first_loss_stays_on_a_branch_and_on_a_branch_of_it(log: RunLog) -> None:
    there = Observer()
    log.append_points(rows(1, 700))
    log.append(BranchStarted(name="b1", parent="main", from_step=4))
    log.update_info(branch="b1")
    log.append_points([point.model_copy(update={"values": {"step_loss": 7.0}}) for point in rows(5, 800, "b1")])
    log.append(BranchStarted(name="b2", parent="b1", from_step=650))
    log.update_info(branch="b2")
    log.append_points(rows(651, 1300, "b2"))
    for observer in (there, Observer()):
        seen = trend(observe(observer, log))
        assert seen.start == 1000
        assert list(seen.all_values[:6]) == pytest.approx([1000, 500, 1000 / 3, 250, 7, 7])


def test_a_view_of_an_older_version_is_read_as_before(log: RunLog) -> None:
    log.append_points(rows(1, 1000))
    observation = observe(Observer(), log)
    old = observation.series["step_loss"].model_dump(exclude={"first_steps", "first_values"})
    view = type(observation.series["step_loss"]).model_validate(old)
    seen = trend(observation.model_copy(update={"series": {"step_loss": view}}))
    assert seen.start == view.downsampled_values[0]


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3000), st.integers(0, 1000), st.floats(0.001, 0.5))
def test_start_and_best_do_not_move_with_the_window(steps: int, seed: int, noise: float) -> None:
    draw = random.Random(seed)
    losses = [math.exp(draw.gauss(0, noise)) for _ in range(steps)]
    seen = trend(make_observation(losses, max_steps=4000))
    assert seen.start == losses[0]
    # A level of noise alone: the lowest of many levels lies some standard errors of one below it, and no lower.
    assert seen.height(seen.best) > -7 * noise / math.sqrt(min(steps, 16))
