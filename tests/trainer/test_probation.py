"""A change of an agent is watched, kept if it did no harm, and taken back if it did: by its values, or by the state."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest
import torch
from torch import nn
from transformers import TrainerCallback

from agenttune.control import LocalControl
from agenttune.protocol.events import Settled
from agenttune.protocol.proposals import Author, Proposal, State
from agenttune.protocol.run_info import RunInfo
from agenttune.store.run_log import RunLog
from tests.cli.conftest import wait_for
from tests.trainer.conftest import Bench, Result

pytestmark = pytest.mark.trainer
AGENT = Author(principal="agent", name="tests")
PERSON = Author(principal="operator", name="tests")
BAD, FINE = {"kind": "update_optimizer", "lr": 0.6}, {"kind": "update_optimizer", "lr": 0.02}


class Line(nn.Module):
    """A linear model: SGD at 0.01 learns it, at 0.6 it blows up."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weights = nn.Linear(4, 1)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": nn.functional.mse_loss(self.weights(self.drop(x)).squeeze(-1), labels)}


class Asker(TrainerCallback):  # type: ignore[misc]
    """Asks through the gate, as an agent does, once the log has all that was before."""

    def __init__(self, bench: Bench, orders: list[tuple[int, dict[str, Any], Author]]) -> None:
        self._control, self._orders = LocalControl(bench.runs_dir), orders

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        while self._orders and self._orders[0][0] == state.global_step:
            _, command, author = self._orders.pop(0)
            wait_for("the step before", lambda: self._control.info("r").step >= state.global_step - 1)
            self._control.submit("r", Proposal.model_validate({"command": command, "author": author}))


@pytest.fixture
def watch(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Any:
    def run(
        *orders: tuple[int, dict[str, Any], Author],
        steps: int = 120,
        gate: dict[str, Any] | None = None,
        scheduler: str = "constant",
        window: int = 24,
        trainer: dict[str, Any] | None = None,
        **probation: Any,
    ) -> Result:
        torch.set_num_threads(1)
        rules = {"probation": {"steps": window, "stall_steps": 0, **probation}, "gate": gate or {}}
        info = RunInfo(run_id="r", name="r", status="starting", created_at_s=time.time(), rules=rules)
        RunLog.create(bench.runs_dir / "r", info).close()
        monkeypatch.setenv("AGENTTUNE_RUN_ID", "r")
        return bench.run(
            callbacks=[Asker(bench, list(orders))],
            build=lambda model: (torch.optim.SGD(model.parameters(), lr=0.01), None),
            model=Line(),
            max_steps=steps,
            learning_rate=0.01,
            lr_scheduler_type=scheduler,
            max_grad_norm=0.0,
            rows=400,
            **(trainer or {}),
        )

    return run


def settled(result: Result) -> list[Settled]:
    return result.bodies("settled")


def by_kind(result: Result, kind: str) -> list[Any]:
    return [record for record in result.records() if record.proposal.command.kind == kind]


def test_a_harmless_change_is_kept(watch: Any) -> None:
    result = watch((40, FINE, AGENT))
    (end,) = settled(result)
    assert (end.outcome, end.metric, end.reverted_by) == ("kept", "step_loss", None)
    assert end.forecast is not None
    assert "was going to" in end.reason
    (record,) = result.records()
    assert record.state is State.KEPT
    assert result.events("settled")[0].step == 64
    assert result.knob("lr").effective == pytest.approx(0.02)


@pytest.mark.parametrize("scheduler", ["constant", "linear"])
def test_a_change_that_hurts_is_taken_back(watch: Any, scheduler: str) -> None:
    plain = 0.01
    result = watch((40, BAD, AGENT), scheduler=scheduler)
    changed, way_back = by_kind(result, "update_optimizer")
    assert (changed.state, way_back.state) == (State.REVERTED, State.APPLIED)
    assert way_back.proposal.author == Author(principal="trainer", name="probation")
    assert changed.command_id in way_back.proposal.rationale
    (end,) = settled(result)
    assert (end.outcome, end.reverted_by) == ("reverted", way_back.command_id)
    assert result.series("base_lr")[-1] == pytest.approx(plain)
    if scheduler == "linear":  # the schedule stands where it would have stood without the change
        assert result.series("lr")[-1] == pytest.approx(plain / 120, rel=1e-6)


def test_the_state_of_before_comes_back(watch: Any) -> None:
    result = watch((40, BAD, AGENT), depth="state")
    save, load = by_kind(result, "save_checkpoint")[0], by_kind(result, "load_checkpoint")[0]
    assert (save.state, load.state) == (State.APPLIED, State.APPLIED)
    (changed,) = by_kind(result, "update_optimizer")
    assert changed.state is State.REVERTED
    assert changed.ack.step > 40
    assert result.bodies("branch_started")[0].parent == "main"
    assert result.series("base_lr")[-1] == pytest.approx(0.01)
    losses = result.series("step_loss")
    assert all(map(math.isfinite, losses[-10:]))
    assert sum(losses[-10:]) / 10 < 0.7 * sum(losses[:10]) / 10, "weights too are those of before"
    assert result.bodies("checkpoint_deleted")[0].checkpoint_id == save.ack.result["checkpoint_id"]


def test_a_loss_that_is_not_finite_is_not_watched_to_the_end(watch: Any) -> None:
    result = watch((40, {"kind": "update_optimizer", "lr": 90.0}, AGENT), depth="state", steps=200)
    (end,) = settled(result)
    assert end.outcome == "reverted"
    assert by_kind(result, "load_checkpoint")[0].ack is not None
    left_at = by_kind(result, "load_checkpoint")[0].ack.result["from_step"]
    assert left_at < 40 + 24
    assert math.isfinite(result.series("step_loss")[-1])


def test_what_people_change_is_theirs(watch: Any) -> None:
    result = watch((40, BAD, PERSON))
    assert settled(result) == []
    assert [record.state for record in result.records()] == [State.APPLIED]


def test_a_change_that_was_taken_back_rests(watch: Any) -> None:
    result = watch((40, BAD, AGENT), (80, {"kind": "update_optimizer", "lr": 0.5}, AGENT))
    changed = [r for r in by_kind(result, "update_optimizer") if r.proposal.author == AGENT]
    assert [r.state for r in changed] == [State.REVERTED, State.REJECTED]
    assert "hurt and was undone" in changed[1].verdict.reason


def test_the_gate_may_refuse_the_way_back(watch: Any) -> None:
    result = watch((40, BAD, AGENT), depth="state", gate={"forbid": ["load_checkpoint"]})
    (end,) = settled(result)
    assert end.outcome == "kept"
    assert "taking it back is refused: load_checkpoint is forbidden" in end.reason


def test_a_run_that_ends_says_so_of_what_was_watched(watch: Any) -> None:
    result = watch((110, FINE, AGENT))
    (end,) = settled(result)
    assert (end.outcome, end.reason) == ("kept", "the run is finished before its probation was over")


def test_a_new_schedule_is_taken_back_to_the_old_one(watch: Any) -> None:
    plan = {"kind": "update_schedule", "shape": "cosine", "peak_lr": 0.6, "warmup_steps": 2}
    result = watch((40, plan, AGENT), scheduler="linear")
    changed, way_back = by_kind(result, "update_schedule")
    assert (changed.state, way_back.command.shape) == (State.REVERTED, "previous")
    assert result.series("lr")[-1] == pytest.approx(0.01 / 120, rel=1e-6)


def test_what_was_made_on_top_of_a_bad_change_goes_with_it(watch: Any) -> None:
    clip = {"kind": "update_training", "max_grad_norm": 1e5}
    result = watch((40, BAD, AGENT), (50, clip, AGENT), steps=140)
    reasons = {end.reason.partition(" step ")[0]: end.outcome for end in settled(result)}
    assert list(reasons.values()) == ["reverted", "reverted"]
    assert "made on top of update_optimizer of" in reasons
    assert result.knob("max_grad_norm").effective == 0.0
    assert result.series("base_lr")[-1] == pytest.approx(0.01)


def test_a_change_of_a_person_ends_what_later_steps_tell(watch: Any) -> None:
    result = watch((40, FINE, AGENT), (45, {"kind": "update_training", "max_grad_norm": 5.0}, PERSON))
    (end,) = settled(result)
    assert (end.outcome, end.points) == ("kept", None)
    assert end.reason == "not judged: nothing tells of it after 5 of 24 steps"


def test_a_run_that_may_have_stalled_is_watched_on(watch: Any) -> None:
    """The loss fell, and with a rate of next to nothing it does not; 12 steps cannot tell that from noise."""
    stalled = {"kind": "update_optimizer", "lr": 1e-7}
    result = watch((100, stalled, AGENT), steps=400, stall_steps=200, trainer={"per_device_train_batch_size": 16})
    (end,) = settled(result)
    assert end.outcome == "reverted"
    assert end.reason.endswith("it stalls")
    assert result.series("base_lr")[-1] == pytest.approx(0.01)


def test_what_was_asked_before_a_return_is_not_applied_after_it(watch: Any) -> None:
    """Seen: the next change came with a state of before it that still had the bad one in it, and went back to that."""
    others = [(s, {"kind": "update_training", "max_grad_norm": 5.0 + s}, AGENT) for s in range(41, 66)]
    result = watch((40, BAD, AGENT), *others, depth="state", cooldown_steps=0)
    back = by_kind(result, "load_checkpoint")[0]
    before = [r for r in result.records() if r.proposal.author == AGENT and r.submitted_seq < back.submitted_seq]
    assert {record.state for record in before} == {State.REVERTED, State.EXPIRED}
    late = [record for record in before if record.state is State.EXPIRED]
    assert all("before the run went back to step" in record.ack.message for record in late)
    assert result.series("base_lr")[-1] == pytest.approx(0.01)


@pytest.mark.parametrize("in_doubt", ["keep", "put_back", "revert"])
def test_what_noise_hides_to_the_end_goes_where_that_was_asked_for(watch: Any, in_doubt: str) -> None:
    """The run has arrived, and nothing can tell whether it would have fallen further."""
    harmless = {"kind": "update_optimizer", "lr": 0.009}
    result = watch((200, harmless, AGENT), steps=320, stall_steps=60, depth="state", in_doubt=in_doubt)
    (end,) = settled(result)
    assert "a stall would not show in this noise" in end.reason
    assert end.outcome == ("kept" if in_doubt == "keep" else "reverted")
    assert result.series("base_lr")[-1] == pytest.approx(0.009 if in_doubt == "keep" else 0.01)
    assert bool(by_kind(result, "load_checkpoint")) is (in_doubt == "revert")


def test_where_no_stall_is_looked_for_nothing_is_in_doubt(watch: Any) -> None:
    (end,) = settled(watch((200, {"kind": "update_optimizer", "lr": 0.009}, AGENT), steps=300, stall_steps=0))
    assert (end.outcome, end.points) == ("kept", 24)


EVALUATES = {"eval_strategy": "steps", "eval_steps": 5}


@pytest.mark.parametrize(("change", "outcome"), [(FINE, "kept"), (BAD, "reverted")])
def test_evaluations_may_be_the_window(watch: Any, change: dict[str, Any], outcome: str) -> None:
    result = watch((40, change, AGENT), trainer=EVALUATES, window=0, evaluations=2)
    (end,) = settled(result)
    assert (end.outcome, end.metric, end.points) == (outcome, "eval_loss", 2)
    assert result.events("settled")[0].step in (51, 52)
    assert "within 2 evaluations" in end.reason


def test_without_evaluations_nothing_is_passed_off_as_judged(watch: Any) -> None:
    result = watch((40, BAD, AGENT), window=0, evaluations=2)
    (end,) = settled(result)
    assert (end.outcome, end.forecast, end.points) == ("kept", None, None)
    assert end.reason == "not judged: 0 evaluations of eval_loss before it, 5 are needed"
    assert result.events("settled")[0].step < 50


def test_nothing_is_watched_where_nothing_was_asked(watch: Any, bench: Bench) -> None:
    watched = watch()
    plain = Bench(bench.path / "plain").run(
        build=lambda model: (torch.optim.SGD(model.parameters(), lr=0.01), None),
        model=Line(),
        max_steps=120,
        learning_rate=0.01,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        rows=400,
        form="plain",
    )
    assert watched.losses == plain.losses
