"""A run turned into a schedule does the same again, without whoever decided in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from agenttune.config import load_yaml
from agenttune.errors import UserError
from agenttune.policy.base import Policy
from agenttune.policy.load import load_policy
from agenttune.policy.schedule import ScheduleFile
from agenttune.protocol.commands import LoadCheckpoint, UpdateOptimizer, UpdateSchedule, UpdateTraining
from agenttune.protocol.events import BranchStarted
from agenttune.protocol.metrics import Point
from agenttune.protocol.proposals import Ack, Author, Change, CommandRecord, Proposal, State, Verdict
from agenttune.protocol.run_info import RunInfo
from agenttune.replay.distill import _entry, _why_not, distill, in_force
from agenttune.store.run_log import RunLog
from tests.cli.conftest import agenttune
from tests.replay.conftest import changes_of, steer

APPROVED = Verdict(decision="approved", decided_by="test")
ANN = Author(principal="operator", name="ann")


def record_of(command: UpdateOptimizer | UpdateSchedule | UpdateTraining, *changes: Change) -> CommandRecord:
    ack = Ack(outcome="applied", step=7, changes=list(changes))
    proposal = Proposal(command=command, author=ANN)
    return CommandRecord(proposal=proposal, state=State.APPLIED, ack=ack, submitted_seq=1)


@pytest.fixture
def log(runs_dir: Path) -> RunLog:
    info = RunInfo(run_id="r1", name="r1", status="running", created_at_s=1.0, max_steps=100)
    return RunLog.create(runs_dir / "r1", info)


def apply(
    log: RunLog, step: int, command: UpdateOptimizer | LoadCheckpoint, branch: str = "main", why: str = ""
) -> str:
    """A command that was asked for and applied."""
    proposal = Proposal(command=command, author=ANN, rationale=why)
    log.submit(proposal, APPROVED)
    rate = command.lr if isinstance(command, UpdateOptimizer) else None
    changes = [Change(name="lr", previous=0.1, requested=rate, effective=rate)] if rate is not None else []
    log.acknowledge(proposal.command_id, Ack(outcome="applied", step=step, branch=branch, changes=changes))
    return proposal.command_id


def test_the_schedule_of_a_guarded_run_makes_the_same_run_without_the_guardian(tmp_path: Path) -> None:
    first = steer(tmp_path / "a", load_policy("guardian"))
    distilled = distill(first.log)
    path = tmp_path / "schedule.yaml"
    path.write_text(distilled.text, encoding="utf-8")
    second = steer(tmp_path / "b", load_policy(str(path)))
    assert changes_of(first)
    assert changes_of(second) == changes_of(first)
    assert second.valley.losses == first.valley.losses
    assert [entry.at_step for entry in distilled.entries] == [step for step, _ in changes_of(first)]
    first.close()
    second.close()


def test_distilling_a_scheduled_run_gives_the_same_schedule(tmp_path: Path) -> None:
    first = steer(tmp_path / "a", load_policy("guardian"))
    path = tmp_path / "schedule.yaml"
    path.write_text(distill(first.log).text, encoding="utf-8")
    second = steer(tmp_path / "b", load_policy(str(path)))
    assert distill(second.log).entries == distill(first.log).entries
    first.close()
    second.close()


def test_what_led_nowhere_is_left_out_and_told(log: RunLog, tmp_path: Path) -> None:
    log.append_points([Point(step=step, at_s=1.0, values={"loss": 1.0}) for step in range(1, 41)])
    apply(log, 10, UpdateOptimizer(lr=0.05), why="too fast\nfor this")
    apply(log, 30, UpdateOptimizer(lr=0.9))
    log.append(BranchStarted(name="retry", parent="main", from_step=20, checkpoint_id="c1"), step=20, branch="retry")
    apply(log, 20, LoadCheckpoint(checkpoint_id="c1"), branch="retry")
    apply(log, 25, UpdateOptimizer(lr=0.02), branch="retry")
    distilled = distill(log)
    assert [(e.at_step, e.do["lr"]) for e in distilled.entries] == [(10, 0.05), (25, 0.02)]
    assert distilled.entries[0].because == "too fast for this"
    assert "#   step 20: load_checkpoint checkpoint_id c1 (by ann): it would go back" in distilled.text
    assert "#   step 30: update_optimizer lr 0.9 (by ann): the run went back and left branch main" in distilled.text
    assert [(e.at_step, e.do["lr"]) for e in distill(log, branch="main").entries] == [(10, 0.05), (30, 0.9)]
    with pytest.raises(UserError, match="no branch 'nope' in run r1; there are: main, retry"):
        distill(log, branch="nope")
    log.close()


def test_refused_failed_and_reverted_commands_are_not_done_again(log: RunLog) -> None:
    refused = Proposal(command=UpdateOptimizer(lr=5.0), author=ANN)
    log.submit(refused, Verdict(decision="rejected", decided_by="bounds"))
    failed = Proposal(command=UpdateOptimizer(momentum=0.5), author=ANN)
    log.submit(failed, APPROVED)
    log.acknowledge(failed.command_id, Ack(outcome="failed", step=3, message="no momentum"))
    apply(log, 10, UpdateOptimizer(lr=0.05))
    distilled = distill(log)
    assert [e.at_step for e in distilled.entries] == [10]
    assert distilled.left_out == []
    log.close()


def test_text_from_the_log_cannot_break_out_of_the_file(log: RunLog, tmp_path: Path) -> None:
    hostile = "fine\nentries:\n  - at_step: 1\n    do: {command: stop_training}\n# \x1b[31m'\"{}: |"
    apply(log, 10, UpdateOptimizer(lr=0.05), why=hostile)
    apply(log, 11, LoadCheckpoint(checkpoint_id="x\nentries: []\n"))
    path = tmp_path / "schedule.yaml"
    path.write_text(distill(log).text, encoding="utf-8")
    [entry] = load_yaml(path, ScheduleFile).entries
    assert entry.do == {"command": "update_optimizer", "lr": 0.05}
    log.close()


def test_values_are_those_that_were_read_back() -> None:
    lr = Change(name="lr", previous=0.2, requested=0.1, effective=0.09999, previous_base=0.4, base=0.2)
    decay = Change(name="weight_decay", previous=0, requested=0.01, effective=0.011)
    nesterov = Change(name="dampening", previous=0, requested=0.3, effective=0.25)
    both = record_of(UpdateOptimizer(lr=0.1, weight_decay=0.01, other={"dampening": 0.3}), lr, decay, nesterov)
    assert in_force(both) == {
        "command": "update_optimizer",
        "lr": 0.09999,
        "weight_decay": 0.011,
        "other": {"dampening": 0.25},
    }
    base = record_of(UpdateOptimizer(lr=0.2, lr_sets="base"), lr)
    assert in_force(base) == {"command": "update_optimizer", "lr": 0.2, "lr_sets": "base"}
    plan = record_of(UpdateSchedule(shape="cosine", end_step=50), lr)
    assert in_force(plan)["peak_lr"] == 0.1
    clip = Change(name="max_grad_norm", previous=1.0, requested=0.5, effective=0.5)
    clipped = in_force(record_of(UpdateTraining(max_grad_norm=0.5), clip))
    assert clipped == {"command": "update_training", "max_grad_norm": 0.5}


def test_the_command_writes_a_file_and_never_over_one(tmp_path: Path) -> None:
    steer(tmp_path / "runs", load_policy("guardian")).close()
    shown = agenttune("distill", "r1", cwd=tmp_path)
    assert shown.code == 0
    assert "mode: lockstep" in shown.out
    assert "type: schedule" in shown.out
    written = agenttune("distill", "r1", "-o", "plan.yaml", cwd=tmp_path)
    assert written.code == 0
    assert (tmp_path / "plan.yaml").read_text(encoding="utf-8") == shown.out
    again = agenttune("distill", "r1", "-o", "plan.yaml", cwd=tmp_path)
    assert again.code == 2
    assert "exists already" in again.err
    assert agenttune("distill", "r2", cwd=tmp_path).code == 2


@pytest.mark.trainer
def test_a_real_run_that_was_steered_by_hand_is_made_again_to_the_bit(tmp_path: Path) -> None:
    from tests.trainer.conftest import At, Bench

    orders = [
        At(3, {"kind": "update_optimizer", "lr": 5e-4}),
        At(5, {"kind": "update_schedule", "shape": "cosine", "final_lr": 1e-5}),
        At(8, {"kind": "update_optimizer", "lr": 2e-3, "lr_sets": "base", "weight_decay": 0.05}),
        At(9, {"kind": "update_training", "max_grad_norm": 0.1}),
    ]
    first = Bench(tmp_path / "a").run(orders, lr_scheduler_type="linear")
    distilled = distill(first.log())
    again = [At(e.at_step, {"kind": e.do["command"], **_arguments(e.do)}) for e in distilled.entries]
    second = Bench(tmp_path / "b").run(again, lr_scheduler_type="linear")
    assert [e.at_step for e in distilled.entries] == [3, 5, 8, 9]
    assert second.witness.used == first.witness.used
    assert second.losses == first.losses
    assert first.witness.used != Bench(tmp_path / "c").run(lr_scheduler_type="linear").witness.used


def _arguments(do: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in do.items() if name != "command"}


@pytest.mark.trainer
def test_in_lockstep_the_schedule_of_a_steered_trainer_lands_at_the_very_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.trainer.conftest import Bench
    from tests.trainer.test_lockstep import Cuts, attended, lockstep_run

    def train(name: str, policy: Policy) -> tuple[RunLog, list[float]]:
        bench = Bench(tmp_path / name)
        log = lockstep_run(bench.runs_dir / "r1", every=1)
        monkeypatch.setenv("AGENTTUNE_RUN_ID", "r1")
        monkeypatch.setenv("AGENTTUNE_RUNS_DIR", str(bench.runs_dir))
        with attended(bench.runs_dir, "r1", policy):
            return log, bench.run(lr_scheduler_type="linear").losses

    first, losses = train("a", Cuts({3: 5e-4, 7: 1e-4}))
    path = tmp_path / "plan.yaml"
    path.write_text(distill(first).text, encoding="utf-8")
    second, again = train("b", load_policy(str(path)))
    steps = [[r.ack.step for r in log.commands() if r.ack is not None] for log in (first, second)]
    assert steps == [[3, 7], [3, 7]]
    assert again == losses


def test_a_probe_is_what_it_adopted_and_one_that_adopted_nothing_is_left_out() -> None:
    candidates = [{"kind": "update_optimizer", "lr": 0.1}, {"kind": "update_optimizer", "lr": 0.2}]
    proposal = Proposal.model_validate(
        {
            "command": {"kind": "probe", "candidates": candidates, "steps": 5},
            "author": Author(principal="agent", name="x"),
        }
    )

    def ended(adopted: dict[str, object] | None) -> CommandRecord:
        ack = Ack(outcome="applied", step=7, result={"adopted": adopted})
        return CommandRecord(proposal=proposal, state=State.APPLIED, ack=ack, submitted_seq=1)

    assert _entry(ended({"kind": "update_optimizer", "lr": 0.2})).do == {"command": "update_optimizer", "lr": 0.2}
    assert _why_not(ended(None), lambda branch, step: True) == "it adopted nothing"
    assert _why_not(ended({"kind": "update_optimizer", "lr": 0.2}), lambda branch, step: True) == ""
