"""Through the one door: every request gets a recorded answer, and a run that ended or died says so."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from agenttune.control import LocalControl, run_logs
from agenttune.errors import RunEnded, UnknownRun
from agenttune.protocol.events import Decided, Evaluated, Found, KnobsRead, NoteAdded, RunStarted, StatusChanged
from agenttune.protocol.findings import Finding
from agenttune.protocol.metrics import Point
from agenttune.protocol.observation import HISTORY, RECENT_POINTS
from agenttune.protocol.proposals import Ack, State
from agenttune.protocol.reads import KnobsQuery
from agenttune.store.process_liveness import is_alive, started_s
from agenttune.store.run_log import RunLog
from tests.core.conftest import OPERATOR, propose


@pytest.fixture
def control(with_knobs: RunLog) -> LocalControl:
    return LocalControl(with_knobs.folder.parent)


def test_a_refusal_is_recorded_like_an_approval(control: LocalControl, log: RunLog) -> None:
    log.update_info(rules={"gate": {"bounds": {"lr": [1e-6, 0.1]}}})
    record = control.submit("r1", propose(lr=1.0))
    assert record.state is State.REJECTED
    assert record.verdict is not None
    assert record.verdict.nearest_allowed == pytest.approx({"lr": 0.05})
    assert [e.body.kind for e in log.events(command_id=record.command_id)] == ["proposed", "judged"]
    assert control.commands("r1", [State.QUEUED]) == []


def test_only_what_reaches_the_trainer_counts_against_budget_and_cooldown(control: LocalControl, log: RunLog) -> None:
    log.update_info(rules={"gate": {"cooldown_steps": 100}, "budgets": {"max_commands": 2}})
    assert control.submit("r1", propose(lr=1e-4, author=OPERATOR)).state is State.QUEUED
    failed = control.submit("r1", propose(lr=1e-4))
    log.acknowledge(failed.command_id, Ack(outcome="failed", step=0))
    assert control.submit("r1", propose(lr=1e-4)).state is State.QUEUED
    refused = control.submit("r1", propose(lr=2e-4))
    assert refused.verdict is not None
    assert refused.verdict.decided_by == "guardrail:cooldown"
    assert control.submit("r1", propose(weight_decay=0.1)).state is State.QUEUED
    refused = control.submit("r1", propose("do_evaluate"))
    assert refused.verdict is not None
    assert refused.verdict.decided_by == "guardrail:budget"
    assert control.observe("r1").commands_left == 0


def test_a_copied_run_goes_by_its_folder_and_long_ids_are_unknown(control: LocalControl, log: RunLog) -> None:
    log.append(RunStarted(framework="test", pid=2**22 + 1))
    shutil.copytree(log.folder, log.folder.parent / "copy")
    assert {info.run_id: info.status for info in control.runs()} == {"r1": "lost", "copy": "lost"}
    with pytest.raises(UnknownRun):
        control.info("x" * 300)


def test_a_dry_run_leaves_no_trace(control: LocalControl, log: RunLog) -> None:
    before = log.last_seq()
    assert control.dry_run("r1", propose(lr=1e-3)).decision == "approved"
    assert log.last_seq() == before


def test_a_proposal_for_a_world_that_is_gone_expires(control: LocalControl, log: RunLog) -> None:
    log.append_points([Point(step=50, at_s=0.0, values={"loss": 1.0})])
    assert control.submit("r1", propose(lr=1e-3, valid_until_step=49)).state is State.EXPIRED
    assert control.submit("r1", propose(lr=1e-3, valid_until_step=50)).state is State.QUEUED


def test_an_ended_run_takes_no_commands_but_repeats_its_answers(control: LocalControl, log: RunLog) -> None:
    known = control.submit("r1", propose(lr=1e-3, command_id="a"))
    log.acknowledge("a", Ack(outcome="applied", step=1))
    log.append(StatusChanged(status="stopped", reason="done"))
    again = control.submit("r1", propose(lr=1e-3, command_id="a"))
    assert (again.state, again.submitted_seq) == (State.APPLIED, known.submitted_seq)
    with pytest.raises(RunEnded, match="run r1 is stopped"):
        control.submit("r1", propose(lr=1e-3))
    with pytest.raises(UnknownRun):
        control.submit("r2", propose(lr=1e-3))


def test_a_run_whose_process_is_gone_is_lost_and_its_queue_expires(log: RunLog) -> None:
    now_s = [0.0]
    control = LocalControl(log.folder.parent, monotonic=lambda: now_s[0])
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    log.append(RunStarted(framework="test", pid=process.pid))
    control.submit("r1", propose(lr=1e-3, command_id="a"))
    assert control.info("r1").status == "running"
    process.kill()
    process.wait()
    info = control.info("r1")
    assert info.status == "lost"
    assert str(process.pid) in info.status_reason
    with pytest.raises(RunEnded):
        control.submit("r1", propose(lr=1e-3))
    assert log.info().status == "running"  # whoever started it may still say how it ended
    now_s[0] = 10.0
    assert control.info("r1").status == "lost"
    assert log.info().status == "lost"
    assert control.command("r1", "a").state is State.EXPIRED


def test_a_run_that_was_taken_over_meanwhile_is_not_lost(log: RunLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job is started again between the look at the run's card and the record that its process is gone."""
    now_s = [0.0]
    control = LocalControl(log.folder.parent, monotonic=lambda: now_s[0])
    log.update_info(pid=2**22 + 1, pid_started_s=1.0)
    assert control.info("r1").status == "lost"
    now_s[0] = 10.0

    def take_over(pid: int, started_at_s: float | None) -> bool:
        monkeypatch.undo()
        log.begin_attempt("Slurm", "", pid=os.getpid(), pid_started_s=started_s(os.getpid()))
        return False

    monkeypatch.setattr(run_logs, "is_alive", take_over)
    assert control.info("r1").status == "starting"
    assert log.info().status == "starting"


def test_each_process_of_a_run_may_say_how_it_ended(log: RunLog) -> None:
    """The grace of a run that was started again does not begin with the end of the process before."""
    now_s = [0.0]
    control = LocalControl(log.folder.parent, monotonic=lambda: now_s[0])
    log.update_info(pid=2**22 + 1, pid_started_s=1.0)
    assert control.info("r1").status == "lost"
    log.begin_attempt("Slurm", "", pid=2**22 + 1, pid_started_s=2.0)
    now_s[0] = 10.0
    assert control.info("r1").status == "lost"
    assert log.info().status == "starting"
    log.append(StatusChanged(status="failed", reason="the script ended with exit code 1"))
    now_s[0] = 20.0
    assert control.info("r1").status == "failed"


def test_a_reused_pid_is_another_process() -> None:
    mine = started_s(os.getpid())
    assert mine is not None
    assert is_alive(os.getpid(), mine)
    assert not is_alive(os.getpid(), mine - 100)
    assert started_s(2**22 + 1) is None


def test_observation_is_bounded_and_current(control: LocalControl, log: RunLog) -> None:
    points = [
        Point(step=i, at_s=float(i), values={"step_loss": 1 / (i + 1), "lr": i * 1e-6, "base_lr": 1e-3})
        for i in range(3000)
    ]
    log.append_points(points)
    for i in range(HISTORY + 10):
        log.append(Evaluated(metrics={"eval_loss": float(i)}), step=i)
        finding = Finding(kind="spike", severity="info", metric="step_loss", step=i, summary=str(i))
        control.record("r1", Found(finding=finding), step=i)
        control.submit("r1", propose(lr=1e-4))
    seen = control.observe("r1")
    assert seen.step == 2999
    assert seen.last_step_at_s == 2999.0
    assert len(seen.series["step_loss"].values) == RECENT_POINTS
    assert seen.series["step_loss"].steps[-1] == 2999
    assert 64 < len(seen.series["step_loss"].downsampled_values) <= 128
    assert seen.series["step_loss"].downsampled_values[0] > seen.series["step_loss"].downsampled_values[-1]
    assert [len(seen.evaluations), len(seen.findings), len(seen.commands)] == [HISTORY] * 3
    assert seen.evaluations[-1].metrics == {"eval_loss": float(HISTORY + 9)}
    rate = seen.knob("lr")
    assert rate is not None
    assert (rate.base, rate.effective) == (1e-3, 2999e-6)
    assert seen.commands_left == 100 - HISTORY - 10


def test_knobs_are_as_the_trainer_read_them_last(control: LocalControl, log: RunLog) -> None:
    noise = control.read("r1", KnobsQuery()).knobs[1]
    log.append(KnobsRead(knobs=[noise.model_copy(update={"effective": 0.7})]))
    assert [k.effective for k in control.read("r1", KnobsQuery()).knobs] == [0.7]


def test_curves_are_kept_ready_for_all_runs(control: LocalControl, log: RunLog) -> None:
    log.append_points([Point(step=i, at_s=0.0, values={"loss": 1.0}) for i in range(100)])
    control.index_runs()
    assert not log.index_lag()
    log.append_points([Point(step=100, at_s=0.0, values={"loss": 1.0})])
    control.index_runs()
    assert not log.index_lag()


def test_waiting_for_events_ends_when_one_comes(control: LocalControl, folder: Path) -> None:
    since = control.log("r1").last_seq()
    assert control.events("r1", since=since) == []

    def write() -> None:
        other = RunLog.open(folder)
        other.append(NoteAdded(text="hello", author="t"))
        other.close()

    thread = threading.Timer(0.1, write)
    thread.start()
    events = control.events("r1", since=since, wait_s=20)
    thread.join()
    assert [e.body.kind for e in events] == ["note_added"]


def test_agents_record_what_they_decided(control: LocalControl, log: RunLog) -> None:
    seq = control.record("r1", Decided(policy="guardian", woken_by="finding", reason="nothing to do"), step=7)
    event = log.events(since=seq - 1)[0]
    assert (event.step, event.body.kind) == (7, "decided")


def test_a_first_look_at_a_long_run_does_not_wait_for_its_curves(log: RunLog, folder: Path) -> None:
    log.append_points([Point(step=s, at_s=1.0, values={"step_loss": 1000.0 / s, "lr": 1e-3}) for s in range(1, 20_001)])
    behind = log.index_lag()
    seen = LocalControl(folder.parent).observe("r1")
    assert log.index_lag() == behind == 20_000, "nobody has drawn a curve, and looking does not"
    loss = seen.series["step_loss"]
    assert loss.steps[-1] == loss.downsampled_steps[-1] == 20_000
    assert loss.downsampled_steps == sorted(set(loss.downsampled_steps))
    for step, mean in zip(loss.downsampled_steps[5:], loss.downsampled_values[5:], strict=True):
        assert 1000.0 / step <= mean < 1300.0 / step, "a mean of few rows up to that step"
