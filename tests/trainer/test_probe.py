"""A probe tries candidates from one state, goes back exactly, and adopts the best: nothing else is left of it."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from agenttune.gate import CommandHistory, Gate, Moment
from agenttune.protocol.deadlines import Instant
from agenttune.protocol.events import Probed
from agenttune.protocol.proposals import Author, CommandRecord, Proposal, State, Verdict
from agenttune.store.run_log import RunLog, list_runs, run_folder
from tests.trainer.conftest import At, Bench, Result, TinyModel, run_to_its_death, submit
from tests.trainer.test_branches import Doing, Once, losses, steered, weights

pytestmark = pytest.mark.trainer

AGENT = Author(principal="agent", name="tester")


def rates(*values: float) -> list[dict[str, Any]]:
    return [{"kind": "update_optimizer", "lr": value} for value in values]


def probe(*candidates: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"kind": "probe", "candidates": list(candidates), "steps": 6, **fields}


def plain_and_probed(
    bench: Bench, orders: Sequence[At], callbacks: Sequence[TrainerCallback] = (), **how: Any
) -> tuple[Result, dict[int, float], Result]:
    """The same training without and with orders; the losses of the first by step."""
    settings = {"max_steps": 60, "rows": 40, "data_seed": 3, **how}
    plain = bench.run([], **settings)
    expected = losses(plain)["main"]
    shutil.rmtree(bench.path)
    return plain, expected, steered(bench, orders, callbacks, **settings)


def finite_losses(result: Result) -> dict[str, dict[int, float]]:
    """As `losses`, without rows of steps that broke off before there was one."""
    found: dict[str, dict[int, float]] = {}
    for point in result.log().points(limit=100_000, sources=["step"]):
        if math.isfinite(point.values.get("step_loss", math.nan)):
            found.setdefault(point.branch, {})[point.step] = point.values["step_loss"]
    return found


def outcome(result: Result) -> Probed:
    (body,) = result.bodies("probed")
    assert isinstance(body, Probed)
    return body


CASES: dict[str, dict[str, Any]] = {
    "shuffling, dropout and a schedule": {"lr_scheduler_type": "cosine", "warmup_steps": 5},
    "over the end of an epoch": {"at": 28},
    "accumulation": {"gradient_accumulation_steps": 2},
    "epochs, evaluations and logs of the loop": {
        "max_steps": -1,
        "num_train_epochs": 6,
        "eval_strategy": "epoch",
        "logging_steps": 7,
    },
    "an evaluation decides": {"metric": "goal"},
    "reduce on plateau, which a plan takes the place of": {
        "lr_scheduler_type": "reduce_lr_on_plateau",
        "eval_strategy": "steps",
        "eval_steps": 3,
    },
}


@pytest.mark.quick("shuffling, dropout and a schedule", "accumulation", "an evaluation decides", "reduce on plateau*")
@pytest.mark.parametrize("case", CASES)
def test_with_nothing_adopted_training_goes_on_as_if_nothing_had_been_tried(bench: Bench, case: str) -> None:
    how = dict(CASES[case])
    at, metric = how.pop("at", 25), how.pop("metric", "loss")
    plan = {"kind": "update_schedule", "shape": "linear", "peak_lr": 1e-5}
    asked = probe(*rates(1e-6, 1e-7), plan, metric=metric, min_gain_frac=1.0)
    plain, expected, result = plain_and_probed(bench, [At(at, asked)], **how)
    assert (result.ack.outcome, result.ack.step, result.ack.changes) == ("applied", at, [])
    assert result.ack.message.startswith("nothing was adopted")
    planned = outcome(result).trials[3]
    assert planned.problem == ""
    names = ["current", 0, 1, 2]
    assert result.ack.result["extra_steps"] == outcome(result).extra_steps == 6 * len(names)
    by_branch = losses(result)
    assert by_branch["main"] == expected
    assert all(torch.equal(a, b) for a, b in zip(weights(result), weights(plain), strict=True))
    tried = [f"probe:1:{name}" for name in names]
    assert [name for name in by_branch if name != "main"] == tried
    assert {tuple(by_branch[name]) for name in tried} == {tuple(range(at + 1, at + 7))}
    if "eval_strategy" not in how:  # the loop's own evaluations, which draw random numbers, are left out of trials
        assert by_branch["probe:1:current"] == {step: expected[step] for step in range(at + 1, at + 7)}
    assert len({tuple(by_branch[name].values()) for name in tried}) == len(tried), "the candidates were really tried"
    assert result.trainer.state.global_step == max(expected)
    assert result.log().info().branch == "main"
    evaluated = [(event.step, event.branch) for event in result.events("evaluated")]
    assert all(branch == "main" for _, branch in evaluated)
    ours, theirs = (
        [(row["step"], row["loss"], row["epoch"]) for row in r.trainer.state.log_history if "loss" in row]
        for r in (result, plain)
    )
    assert ours == theirs


def test_the_best_of_three_rates_is_adopted_and_read_back(bench: Bench) -> None:
    asked = probe(*rates(1e-6, 3e-2, 1e-4), steps=8)
    _, expected, result = plain_and_probed(bench, [At(20, asked)], learning_rate=1e-5)
    assert (result.ack.outcome, result.ack.step, result.ack.confirmed_step) == ("applied", 20, 21)
    (change,) = result.ack.changes
    assert (change.name, change.requested, change.effective) == ("lr", 3e-2, 3e-2)
    assert result.ack.result["adopted"]["lr"] == 3e-2
    body = outcome(result)
    assert body.adopted == 2
    values = [trial.value for trial in body.trials]
    assert None not in values
    assert values.index(min(v for v in values if v is not None)) == 2
    main = losses(result)["main"]
    assert list(main) == list(range(1, 61)), "the steps of the trials are no steps of the run"
    assert {step: main[step] for step in range(1, 22)} == {step: expected[step] for step in range(1, 22)}
    tried = losses(result)["probe:1:1"]
    assert {step: main[step] for step in tried} == tried, "what was adopted does what it did when it was tried"
    assert main[60] < expected[60]
    assert result.knob("max_steps").effective == 60


def test_every_trial_sees_the_same_batches_and_what_wins_is_tried_for_longer(bench: Bench) -> None:
    asked = probe(*rates(1e-6, 3e-2, 1e-4), steps=8, confirm_steps=12)
    _, expected, result = plain_and_probed(bench, [At(20, asked)], learning_rate=1e-5)
    by_branch = losses(result)
    firsts = {by_branch[f"probe:1:{name}"][21] for name in ("current", 0, 1, 2, "longer-current", "longer-1")}
    assert firsts == {expected[21]}, "before the first update nothing tells them apart"
    assert by_branch["probe:1:longer-current"] == {step: expected[step] for step in range(21, 33)}
    body = outcome(result)
    assert (result.ack.outcome, result.ack.result["adopted"]["lr"], body.adopted) == ("applied", 3e-2, 5)
    assert (len(body.trials), body.extra_steps) == (6, 4 * 8 + 2 * 12)
    won = body.trials[5]
    assert won.gain is not None
    assert won.error is not None
    assert won.gain > 2 * won.error > 0
    assert result.ack.result["trials"][5]["gain"] == won.gain
    assert {step: losses(result)["main"][step] for step in range(21, 33)} == by_branch["probe:1:longer-1"]


def test_what_does_not_win_again_by_the_goal_is_not_adopted(bench: Bench) -> None:
    asked = probe(*rates(3e-2), steps=8, confirm_steps=2, confirm="goal", min_gain_frac=0.3)
    _, expected, result = plain_and_probed(bench, [At(20, asked)], learning_rate=1e-5)
    assert result.ack.message.startswith("nothing was adopted")
    assert [trial.name for trial in outcome(result).trials][2:] == ["probe:1:longer-current", "probe:1:longer-0"]
    assert result.ack.result["metric"] == "eval_loss"
    assert losses(result)["main"] == expected


class Poison(TrainerCallback):  # type: ignore[misc]
    """Breaks the weights while a rate is in force that only one candidate has."""

    def __init__(self, lr: float, error: bool = False) -> None:
        self.lr, self.error = lr, error

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if kwargs["optimizer"].param_groups[0]["lr"] == self.lr:
            with torch.no_grad():
                kwargs["model"].second.weight.fill_(math.nan)


@pytest.mark.parametrize("breaks", ["the loss", "the step"])
def test_a_candidate_that_breaks_ends_at_once_and_loses(
    bench: Bench, breaks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = TinyModel(dropout=0.0)
    if breaks == "the step":
        forward = model.forward

        def raising(x: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
            if torch.isnan(model.second.weight).any():
                raise RuntimeError("no memory left")
            return forward(x, labels)

        monkeypatch.setattr(model, "forward", raising)
    result = steered(bench, [At(20, probe(*rates(0.5, 1e-2)))], [Poison(0.5)], model=model, learning_rate=1e-4)
    body = outcome(result)
    assert body.adopted == 2
    broken = body.trials[1]
    assert (broken.steps, broken.value) == (1, None)
    assert ("nan" if breaks == "the loss" else "RuntimeError: no memory left") in broken.problem
    assert body.extra_steps == 13
    assert list(finite_losses(result)["main"]) == list(range(1, 61))
    assert all(map(math.isfinite, (row["loss"] for row in result.trainer.state.log_history if "loss" in row)))


@pytest.mark.parametrize("kind", ["stop_training", "pause_training"])
def test_a_person_breaks_it_off_and_the_run_goes_back_first(bench: Bench, kind: str) -> None:
    def interrupt() -> None:
        log = RunLog.open(run_folder(bench.runs_dir, list_runs(bench.runs_dir)[0].run_id))
        submit(log, {"kind": kind})
        if kind == "pause_training":
            submit(log, {"kind": "resume_training"})
        log.close()

    _, expected, result = plain_and_probed(bench, [At(20, probe(*rates(1e-2)))], [Doing(22, interrupt)])
    ack, obeyed, *_ = result.acks()
    assert (ack.outcome, ack.step) == ("failed", 20)
    assert f"interrupted by {kind} of ann" in ack.message
    assert (obeyed.outcome, obeyed.step) == ("applied", 20)
    assert outcome(result).extra_steps <= 3
    main = losses(result)["main"]
    last = 20 if kind == "stop_training" else 60
    assert main == {step: expected[step] for step in range(1, last + 1)}
    assert result.trainer.state.global_step == last
    assert result.log().info().step == last


class Ender(TrainerCallback):  # type: ignore[misc]
    """Ends training at a step, as callbacks of users do."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_save = control.should_evaluate = True
        if state.global_step == 23:
            control.should_training_stop = True


def test_a_callback_that_ends_training_or_saves_in_a_trial_leaves_no_trial_behind(bench: Bench) -> None:
    result = steered(bench, [At(20, probe(*rates(1e-2)))], [Ender()], save_strategy="no")
    assert result.ack.outcome == "failed"
    assert "asked for the end" in result.ack.message
    assert result.trainer.state.global_step == 20
    saved = {int(path.name.rpartition("-")[2]) for path in (bench.path / "out").glob("checkpoint-*")}
    assert max(saved) == 20
    tried = losses(result)["probe:1:current"]
    assert list(tried) == [21, 22, 23]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (probe(*rates(1e-2), steps=40), "would reach the run's end; 39 are left at step 20"),
        (probe({"kind": "set_knob", "name": "nope", "value": 1.0}, include_current=False), "no candidate came through"),
    ],
)
def test_what_cannot_be_tried_is_refused_and_changes_nothing(bench: Bench, asked: dict[str, Any], said: str) -> None:
    _, expected, result = plain_and_probed(bench, [At(20, asked)])
    assert said in result.ack.message
    assert result.ack.changes == []
    assert losses(result)["main"] == expected


def test_the_callback_alone_says_why_it_cannot(bench: Bench) -> None:
    result = bench.run([At(3, probe(*rates(1e-2), steps=2))], form="callback")
    assert result.ack.outcome == "failed"
    assert "make_interactive" in result.ack.message


def test_a_checkpoint_is_no_trials_and_none_is_left_over(bench: Bench) -> None:
    orders = [At(20, probe(*rates(1e-2), min_gain_frac=1.0)), At(40, {"kind": "save_checkpoint", "tag": "mark"})]
    _, expected, result = plain_and_probed(bench, orders, save_strategy="steps", save_steps=5)
    assert losses(result)["main"] == expected
    saved = [(event.step, event.branch) for event in result.events("checkpoint_saved")]
    assert saved.count((25, "main")) == 1
    assert {branch for _, branch in saved} == {"main"}
    (gone,) = result.bodies("checkpoint_deleted")
    assert gone.reason == "the probe that it was kept for is over"


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from tests.trainer.conftest import At, Bench
    from tests.trainer.test_branches import Doing

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    lrs = [{"kind": "update_optimizer", "lr": 1e-2}]
    order = At(5, {"kind": "probe", "candidates": lrs, "steps": 4})
    bench = Bench(Path(sys.argv[1]))
    bench.run([order], callbacks=[Doing(7, die)], save_strategy="steps", save_steps=1)
"""


def test_killed_in_the_middle_nothing_of_a_trial_is_taken_for_true(tmp_path: Path) -> None:
    log = run_to_its_death(KILLED, tmp_path)
    (record,) = log.commands()
    assert (record.state, record.ack) == (State.QUEUED, None)
    assert log.info().step <= 5
    assert log.events(kinds=["probed"]) == []
    folders = [path.name for path in (tmp_path / "out").glob("checkpoint-*")]
    assert sorted(folders, key=lambda name: int(name.rpartition("-")[2]))[-1] == "checkpoint-5"


# -- with the gate ---------------------------------------------------------------------------------------------------


class Judged(Once):
    """Asks as an agent does, through the gate of the run."""

    def submit(self, step: int) -> None:
        due = [order for order in self.orders if order.step == step]
        self.orders = [order for order in self.orders if order.step != step]
        for order in due:
            log = RunLog.open(run_folder(self.runs_dir, list_runs(self.runs_dir)[0].run_id))
            proposal = Proposal.model_validate({"command": order.command, "author": AGENT})
            log.submit(proposal, Verdict(decision="approved", decided_by="test"))
            log.close()


def watched(bench: Bench, rules: dict[str, Any], orders: Sequence[At], **how: Any) -> Result:
    """Two rates, the first of an agent that the run's rules watch."""

    class Ruling(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            log = RunLog.open(run_folder(bench.runs_dir, list_runs(bench.runs_dir)[0].run_id))
            log.update_info(rules=rules)
            log.close()

    result = bench.trainer(
        [], callbacks=[Judged(bench.runs_dir, orders)], **{"max_steps": 60, "rows": 40, "data_seed": 3, **how}
    )
    # Before the session reads them: the log is there once training begins.
    result.trainer.callback_handler.callbacks.insert(0, Ruling())
    result.trainer.train()
    return result


@pytest.mark.parametrize("depth", ["knob", "state"])
def test_what_is_adopted_is_watched_and_taken_back_if_it_hurts(bench: Bench, depth: str) -> None:
    rules = {"probation": {"steps": 12, "depth": depth, "tolerance": 0.001, "min_rise_frac": 0.0}}
    # Without a comparison the worst rate is adopted, for want of another.
    asked = probe(*rates(0.9), steps=2, include_current=False)
    result = watched(bench, rules, [At(20, asked)], model=TinyModel(dropout=0.0), learning_rate=1e-3)
    records = {record.command.kind: record for record in result.records() if record.command.kind != "save_checkpoint"}
    probed = records.pop("probe")
    assert probed.state is State.REVERTED, probed
    (back,) = records.values()
    assert back.proposal.author.name == "probation"
    assert back.command.kind == ("update_optimizer" if depth == "knob" else "load_checkpoint")
    assert result.knob("lr").effective < 0.01


def judged(command: dict[str, Any], rules: dict[str, Any], log: RunLog, history: CommandHistory | None = None) -> Any:
    info = log.info().model_copy(update={"rules": rules, "step": 20, "max_steps": 1000})
    proposal = Proposal.model_validate({"command": command, "author": AGENT})
    return Gate.of(info).judge(proposal, Moment(info, Instant(0.0)), history or CommandHistory()), proposal


def test_a_probe_is_no_way_around_the_gate(bench: Bench) -> None:
    log = bench.run([], lr_scheduler_type="constant").log()
    asked = probe(*rates(1e-3, 0.5))
    refused, _ = judged(asked, {"gate": {"bounds": {"lr": [1e-6, 1e-2]}}}, log)
    assert (refused.decision, refused.decided_by) == ("rejected", "guardrail:bounds")
    assert "candidate 1 (from 0): lr 0.5 is outside" in refused.reason
    assert refused.nearest_allowed["candidates"][1]["lr"] == 0.01
    clamped, _ = judged(asked, {"gate": {"bounds": {"lr": [1e-6, 1e-2]}, "clamp": True}}, log)
    assert clamped.decision == "edited"
    assert [c.lr for c in clamped.edited.candidates] == [1e-3, 1e-2]
    forbidden, _ = judged(asked, {"gate": {"forbid": ["update_optimizer"]}}, log)
    assert (forbidden.decision, forbidden.decided_by) == ("rejected", "guardrail:forbidden")
    gate: dict[str, list[Any]] = {"approval": [{"risks": ["disrupt"], "approvers": ["auto"]}]}
    uncovered, _ = judged(asked, {"gate": gate}, log)
    assert (uncovered.decision, uncovered.decided_by) == ("rejected", "rule:none")
    gate["approval"].append({"commands": ["update_optimizer"], "max_factor": 100, "approvers": ["auto"]})
    gate["approval"].append({"commands": ["update_optimizer"], "approvers": ["human"]})
    waits, proposal = judged(asked, {"gate": gate}, log)
    assert waits.approvers == ["human"]
    assert waits.digest == proposal.digest()
    small, _ = judged(probe(*rates(1e-3)), {"gate": gate}, log)
    assert small.decision == "approved"


def test_extra_steps_have_a_budget(bench: Bench) -> None:
    log = bench.run([]).log()
    asked = probe(*rates(1e-3, 1e-2), steps=20)  # 60 extra steps
    allowed, _ = judged(asked, {}, log, CommandHistory(extra_steps=140))
    assert allowed.decision == "approved"
    spent, _ = judged(asked, {}, log, CommandHistory(extra_steps=141))
    assert spent.decided_by == "guardrail:extra_steps"
    assert "max_probe_frac (0.2) allows 200" in spent.reason
    assert spent.nearest_allowed == {"steps": 19}
    fewer, _ = judged(asked, {"budgets": {"max_probe_steps": 50}}, log)
    assert "budgets.max_probe_steps allows 50" in fewer.reason
    late, _ = judged(probe(*rates(1e-3), steps=980), {"budgets": {"max_probe_frac": None}}, log)
    assert late.nearest_allowed == {"steps": 979}


def test_only_an_adopted_change_starts_a_cooldown(bench: Bench) -> None:
    orders = [At(3, probe(*rates(1e-3), steps=2, min_gain_frac=1.0)), At(6, probe(*rates(0.1), steps=2))]
    orders[1].command["include_current"] = False
    result = bench.run([], callbacks=[Judged(bench.runs_dir, orders)])
    log = result.log()
    nothing, something = log.commands()
    asked = {"kind": "update_optimizer", "lr": 5e-4}

    def ruling(record: CommandRecord) -> Any:
        return judged(asked, {"gate": {"cooldown_steps": 100}}, log, CommandHistory(commands=[record]))[0].decision

    assert (ruling(nothing), ruling(something)) == ("approved", "rejected")
