"""A policy sees what each change did: once measured it stays so, and going back is judged by what it has undone."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence

import pytest

from agenttune.policy.rule_names import functions_of
from agenttune.protocol.events import BranchStarted, Settled
from agenttune.protocol.metrics import Point
from agenttune.protocol.observation import RECENT_POINTS, Observation
from agenttune.protocol.proposals import Ack, Author, Change, Proposal
from agenttune.store.journal.observer import Observer
from agenttune.store.journal.run_summary import summarize
from agenttune.store.run_log import RunLog
from tests.core.conftest import APPROVED

AGENT = Author(principal="agent", name="tests")


def train(log: RunLog, values: Sequence[float], first: int = 1, branch: str = "main") -> None:
    points = [Point(step=first + i, at_s=time.time(), values={"step_loss": v}) for i, v in enumerate(values)]
    points = [p.model_copy(update={"branch": branch}) for p in points]
    log.append_points(points)
    log.update_info(step=points[-1].step, branch=branch)


def noisy(level: float, count: int, seed: int = 0) -> list[float]:
    draw = random.Random(seed)
    return [level * math.exp(draw.gauss(0, 0.05)) for _ in range(count)]


def ask(log: RunLog, rule: str, command: dict[str, object], ack: Ack) -> str:
    raw = {"command": command, "author": AGENT, "rationale": f"{rule}: because", "based_on_step": ack.step}
    proposal = Proposal.model_validate(raw)
    log.submit(proposal, APPROVED)
    log.acknowledge(proposal.command_id, ack)
    return proposal.command_id


def cut(log: RunLog, step: int) -> str:
    change = Change(name="lr", previous=0.1, requested=0.01, effective=0.01)
    ack = Ack(outcome="applied", step=step, changes=[change])
    return ask(log, "cut", {"kind": "update_optimizer", "lr": 0.01}, ack)


def go_back(log: RunLog, to: int, left: int) -> str:
    log.append(BranchStarted(name="again", parent="main", from_step=to), step=to, branch="again")
    result = {"branch": "again", "parent": "main", "from_step": left, "from_branch": "main"}
    ack = Ack(outcome="applied", step=to, branch="again", result=result)
    return ask(log, "rescue", {"kind": "load_checkpoint", "checkpoint_id": "good"}, ack)


def see(log: RunLog) -> Observation:
    return Observer().observe(log, log.info(), time.time(), None)


@pytest.mark.parametrize(("after", "helped"), [(0.3, 1), (2.3, 0), (6.0, -1)])
def test_going_back_is_judged_by_the_steps_that_it_has_undone(log: RunLog, after: float, helped: int) -> None:
    train(log, [*noisy(0.4, 50), *noisy(2.3, 50)])
    command_id = go_back(log, to=50, left=100)
    train(log, noisy(after, 3, seed=1), first=51, branch="again")
    early = functions_of(see(log))
    assert (early["helped"]("rescue"), early["measured"]("rescue")) == (0, 0)
    train(log, noisy(after, 47, seed=2), first=54, branch="again")
    seen = see(log)
    functions = functions_of(seen)
    assert (functions["helped"]("rescue"), functions["measured"]("rescue")) == (helped, 1)
    effect = seen.effects[command_id]
    assert effect.expected == pytest.approx(2.3, rel=0.1)
    told = [one.effect for one in summarize(log).interventions]
    assert told == [effect]  # a report tells what the policy was told


def test_a_second_return_is_judged_by_the_branch_that_it_left(log: RunLog) -> None:
    """Seen: ten returns to one state, each `not known`, as a branch that began by a return stands on no other line."""
    train(log, [*noisy(0.4, 50), *noisy(2.3, 50)])
    go_back(log, to=50, left=100)
    train(log, noisy(2.3, 50, seed=1), first=51, branch="again")
    log.append(BranchStarted(name="third", parent="main", from_step=50), step=50, branch="third")
    result = {"branch": "third", "parent": "main", "from_step": 100, "from_branch": "again"}
    ack = Ack(outcome="applied", step=50, branch="third", result=result)
    command_id = ask(log, "more", {"kind": "load_checkpoint", "checkpoint_id": "good"}, ack)
    train(log, noisy(2.3, 50, seed=2), first=51, branch="third")
    seen = see(log)
    functions = functions_of(seen)
    assert (functions["helped"]("more"), functions["measured"]("more")) == (0, 1)
    assert seen.effects[command_id].expected == pytest.approx(2.3, rel=0.1)


def test_a_loss_that_was_not_finite_and_is_again_was_helped(log: RunLog) -> None:
    train(log, [*noisy(0.4, 50), *([math.nan] * 20)])
    go_back(log, to=40, left=70)
    train(log, noisy(0.4, 30, seed=1), first=41, branch="again")
    assert functions_of(see(log))["helped"]("rescue") == 1
    train(log, noisy(0.4, 10), first=71, branch="again")
    assert "was not finite" in next(iter(see(log).effects.values())).words


def test_what_was_measured_stays_however_long_the_run_goes_on(log: RunLog) -> None:
    train(log, noisy(2.0, 100))
    command_id = cut(log, 100)
    train(log, noisy(1.0, 100, seed=1), first=101)
    observer = Observer()
    effect = observer.observe(log, log.info(), time.time(), None).effects[command_id]
    assert (effect.helped, effect.is_final) == (1, True)
    train(log, noisy(5.0, RECENT_POINTS + 200, seed=2), first=201)
    assert observer.observe(log, log.info(), time.time(), None).effects[command_id] == effect
    assert see(log).effects[command_id] == effect  # also by an agent that was started again


def test_an_untouched_course_measures_as_no_help(log: RunLog) -> None:
    train(log, noisy(2.0, 100))
    cut(log, 100)
    train(log, noisy(2.0, 20, seed=1), first=101)
    functions = functions_of(see(log))
    assert (functions["helped"]("cut"), functions["measured"]("cut")) == (0, 0)  # more is still to come
    train(log, noisy(2.0, 60, seed=2), first=121)
    functions = functions_of(see(log))
    assert (functions["helped"]("cut"), functions["measured"]("cut")) == (0, 1)
    assert math.isnan(functions["helped"]("never_fired"))
    assert math.isnan(functions["measured"]("never_fired"))


def test_what_probation_took_back_hurt_also_where_its_window_was_cut_short(log: RunLog) -> None:
    """Else a rule that may act again unless that did not help would ask for the same once more."""
    train(log, noisy(2.0, 100))
    command_id = cut(log, 100)
    train(log, noisy(9.0, 10, seed=1), first=101)
    assert functions_of(see(log))["helped"]("cut") == 0
    figures = {"forecast": 2.0, "found": 9.0, "noise": 0.1, "points": 10, "metric": "step_loss"}
    settled = Settled.model_validate({"outcome": "reverted", "reason": "it rose, badly", **figures})
    observer = Observer()
    observer.observe(log, log.info(), time.time(), None)
    log.settle(command_id, settled, 110, "main")
    change = Change(name="lr", previous=0.01, requested=0.1, effective=0.1)
    ask(log, "probation", {"kind": "update_optimizer", "lr": 0.1}, Ack(outcome="applied", step=110, changes=[change]))
    seen = observer.observe(log, log.info(), time.time(), None)
    assert (functions_of(seen)["helped"]("cut"), functions_of(seen)["measured"]("cut")) == (-1, 1)
    assert "9, 2 expected without it" in seen.effects[command_id].words


def test_what_broke_a_run_hurt_before_any_window_is_over(log: RunLog) -> None:
    train(log, noisy(2.0, 100))
    cut(log, 100)
    train(log, [*noisy(2.0, 2), math.nan, math.nan, math.nan], first=101)
    assert functions_of(see(log))["helped"]("cut") == -1
