"""A rate that nobody can train with is never set, one that does not hold is put back, and commands of one boundary are
judged one after the other."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD, lr_scheduler
from transformers import TrainerCallback

from agenttune.control import LocalControl
from agenttune.errors import UserError
from agenttune.protocol.commands import UpdateSchedule
from agenttune.protocol.lr_plans import make_plan, plan_as_told, planned_factor
from agenttune.protocol.proposals import Author, Proposal, State
from agenttune.protocol.run_info import RunInfo
from agenttune.store.run_log import RunLog
from agenttune.trainer.lr.schedules import Schedule
from tests.trainer.conftest import At, Bench
from tests.trainer.test_courses import MAKES, optimizer_of, train
from tests.trainer.test_rates import two_groups

pytestmark = pytest.mark.trainer
AGENT = Author(principal="agent", name="tests")


@pytest.mark.parametrize("name", MAKES)
def test_a_change_that_is_undone_later_leaves_the_rates_as_they_would_have_been(name: str) -> None:
    plain, steered = optimizer_of(), optimizer_of()
    others = MAKES[name](plain), MAKES[name](steered)
    for optimizer, scheduler in zip((plain, steered), others, strict=True):
        train(optimizer, scheduler, 4)
    schedule = Schedule(steered, others[1])
    before = schedule.rates()
    schedule.set_effective(7e-4, None)
    train(steered, others[1], 2)
    Schedule(steered, others[1]).restore(before, [0, 1])
    train(plain, others[0], 2)
    for used, expected in zip(train(steered, others[1], 5), train(plain, others[0], 5), strict=True):
        assert used == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", ["linear", "StepLR", "none"])
def test_a_rate_that_would_be_infinite_is_refused(name: str) -> None:
    """Seen before: `{"lr": 1e-312}`, then 0.01: a base of Infinity, acked as applied, and the weights were lost."""
    optimizer = optimizer_of((1e-3, 1.0))
    scheduler = MAKES[name](optimizer)
    schedule = Schedule(optimizer, scheduler)
    schedule.set_effective(1e-30, None)
    schedule.set_effective(1e-3, 1)
    schedule.set_effective(1.0, None)
    with pytest.raises(UserError, match="parameter group 1 would be"):
        schedule.refuse_impossible()


def two(model: nn.Module) -> tuple[Any, Any]:
    optimizer = SGD(two_groups(model), lr=1e-3)
    return optimizer, lr_scheduler.LambdaLR(optimizer, lambda t: 1 - t / 20)


def test_a_rate_beyond_what_can_be_is_refused_and_nothing_changes(bench: Bench) -> None:
    orders = [
        At(3, {"kind": "update_optimizer", "lr": 1e-30, "param_group": 0}),
        At(5, {"kind": "update_optimizer", "lr": 1.0}),
        At(7, {"kind": "update_optimizer", "lr": 1e-3, "param_group": 0}),
    ]
    result = bench.run(orders, build=two)
    refused = result.acks()[1]
    assert refused.outcome == "failed"
    assert "parameter group 1" in refused.message
    assert [ack.outcome for ack in result.acks()] == ["applied", "failed", "applied"]
    assert all(math.isfinite(rate) for used in result.witness.used for rate in used)
    assert result.witness.used[5][1] == pytest.approx(2e-4 * (1 - 5 / 20))


class Meddler(TrainerCallback):  # type: ignore[misc]
    """Sets another rate just once, in the step after the command."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self._step:
            kwargs["optimizer"].param_groups[0]["lr"] = 0.5


@pytest.mark.parametrize(
    "command",
    [
        {"kind": "update_optimizer", "lr": 3e-3, "weight_decay": 0.3},
        {"kind": "update_schedule", "shape": "constant", "peak_lr": 3e-3},
    ],
)
def test_a_command_whose_rate_does_not_hold_is_undone_whole(bench: Bench, command: dict[str, Any]) -> None:
    """Seen before: acked as failed, and the new base or plan stayed in force."""
    how: dict[str, Any] = {"lr_scheduler_type": "cosine", "weight_decay": 0.1}
    plain = bench.run(form="plain", **how)
    result = bench.run([At(5, command)], callbacks=[Meddler(5)], **how)
    assert result.ack.outcome == "failed"
    assert "something else sets the rate" in result.ack.message
    for used, expected in zip(result.witness.used[7:], plain.witness.used[7:], strict=True):
        assert used == pytest.approx(expected)
    assert result.witness.other[7]["weight_decay"] == plain.witness.other[7]["weight_decay"]


class Ask(TrainerCallback):  # type: ignore[misc]
    """An agent that asks for several things at once."""

    def __init__(self, bench: Bench, step: int, commands: list[dict[str, Any]]) -> None:
        self._bench, self._step, self._commands = bench, step, commands

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self._step:
            for command in self._commands:
                proposal = Proposal.model_validate({"command": command, "author": AGENT})
                LocalControl(self._bench.runs_dir).submit("r", proposal)


def make_run(bench: Bench, monkeypatch: pytest.MonkeyPatch, **gate: Any) -> None:
    info = RunInfo(run_id="r", name="r", status="starting", created_at_s=time.time(), rules={"gate": gate})
    monkeypatch.setenv("AGENTTUNE_RUN_ID", "r")
    RunLog.create(bench.runs_dir / "r", info).close()


@pytest.mark.parametrize(
    ("gate", "commands", "words"),
    [
        (
            {"window": {"steps": 50, "max_change_factor": 3}},
            [{"kind": "update_optimizer", "lr": 4e-4, "param_group": 0}, {"kind": "update_optimizer", "lr": 1.4e-3}],
            "lr of parameter group 1 would change from 0.0002 to 0.0007, by more than a factor of 3",
        ),
        (
            {"bounds": {"lr": [1e-7, 1.0]}},
            [{"kind": "update_optimizer", "lr": 1e-6, "param_group": 0}, {"kind": "update_optimizer", "lr": 0.9}],
            "parameter group 1",
        ),
    ],
)
def test_what_is_asked_for_at_once_is_judged_one_after_the_other(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, gate: dict[str, Any], commands: list[dict[str, Any]], words: str
) -> None:
    """Each passes alone; the second is judged by what the first has left."""
    make_run(bench, monkeypatch, **gate)
    result = bench.run(callbacks=[Ask(bench, 4, commands)], build=flat)
    first, second = result.records()
    assert first.state is State.APPLIED
    assert second.state is State.FAILED
    assert second.ack is not None
    assert "refused before it was applied" in second.ack.message
    assert words in second.ack.message
    assert max(rate for used in result.witness.used for rate in used) <= 2e-3


def flat(model: nn.Module) -> tuple[Any, Any]:
    optimizer = SGD(two_groups(model), lr=1e-3)
    return optimizer, lr_scheduler.LambdaLR(optimizer, lambda t: 1.0)


def test_an_ack_of_a_schedule_is_a_sentence_with_the_figures_beside_it(bench: Bench) -> None:
    order = At(5, {"kind": "update_schedule", "shape": "linear", "peak_lr": 6e-4, "final_lr": 1e-4})
    ack = bench.run([order], max_steps=20, lr_scheduler_type="cosine").ack
    change = next(change for change in ack.changes if change.name == "schedule")
    assert change.previous == "the run's own cosine with warmup, base 0.001"
    assert change.effective == "linear from 0.0006 at step 5 to 0.0001 at step 20"
    assert ack.result["schedule"]["effective"]["end_t"] == 20
    assert ack.result["schedule"]["requested"]["final_lr"] == 1e-4
    told = ack.result["schedule"]["effective"]
    assert [told[name] for name in ("peak_lr", "final_lr")] == pytest.approx([6e-4, 1e-4])
    assert (told["final"], told["peak_step"], told["end_step"]) == (pytest.approx(1 / 6), 5, 20)


@given(
    shape=st.sampled_from(["constant", "linear", "cosine", "wsd"]),
    step=st.integers(0, 50),
    ahead=st.integers(0, 5),
    warmup=st.integers(0, 20),
    rates=st.tuples(st.floats(1e-6, 1.0), st.floats(1e-6, 1.0), st.floats(1e-6, 1.0)),
)
def test_the_rates_and_steps_that_a_plan_is_told_with_are_those_that_it_gives(
    shape: Any, step: int, ahead: int, warmup: int, rates: tuple[float, float, float]
) -> None:
    peak, start, final = rates[0], rates[0] * rates[1], rates[2]
    given_start = {"start_lr": start} if warmup else {}
    command = UpdateSchedule(shape=shape, peak_lr=peak, final_lr=final, warmup_steps=warmup, **given_start)
    clock = max(0, step - ahead)
    plan = make_plan(command, step, 100, peak, clock)
    told = plan_as_told(plan, peak, step - clock)
    at = {name: planned_factor(plan, told[f"{name}_step"] - (step - clock)) * peak for name in ("start", "peak", "end")}
    assert at["start"] == pytest.approx(told["start_lr"] if warmup else told["peak_lr"])
    assert [at["peak"], at["end"]] == pytest.approx([told["peak_lr"], told["final_lr"]])
    assert told.items() >= plan.items(), "what was there can still be read"


def test_a_limit_on_a_knob_that_the_run_lacks_is_said_at_its_start(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make_run(bench, monkeypatch, bounds={"label_smoothing": [0, 0.5], "lr": [0, 1]})
    result = bench.run(max_steps=2)
    (note,) = [body.text for body in result.bodies("note_added") if "protects nothing" in body.text]
    assert "gate.bounds.label_smoothing protects nothing: this run has no knob 'label_smoothing'" in note
    assert note in caplog.text
