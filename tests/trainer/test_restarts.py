"""A job that is started again trains on in the run that it has begun: torchrun's restarts, Slurm's requeue."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from agenttune.launch import make_plan
from agenttune.launch.supervisor import create_run
from agenttune.protocol.commands import UpdateOptimizer
from agenttune.protocol.events import AttemptStarted, NoteAdded, StatusChanged
from agenttune.protocol.proposals import Author, Proposal, State, Verdict
from agenttune.protocol.run_info import RunInfo
from agenttune.store.job import job_of
from agenttune.store.run_log import RunLog, list_runs
from agenttune.trainer.options import Options, open_run
from agenttune.views.report import read_journal
from tests.warm import ROOT, start

pytestmark = pytest.mark.trainer

TRAIN = """
    import json, os, signal, sys, time
    from pathlib import Path
    import torch
    import agenttune
    from agenttune.control import LocalControl
    from agenttune.protocol.commands import parse_command
    from agenttune.protocol.proposals import Author, Proposal
    from agenttune.trainer import Options

    folder, how = Path(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    rank = int(os.environ.get("RANK", 0))
    attempt = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) + int(os.environ.get("SLURM_RESTART_COUNT", 0))
    if how != "slurm":
        torch.distributed.init_process_group("gloo")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    reset = {"kind": "model_layer_operation", "layer_name": "1", "operation_name": "reset_parameters"}
    freeze = {"kind": "model_layer_operation", "layer_name": "0", "operation_name": "requires_grad_"}
    orders = [
        {"kind": "update_optimizer", "lr": 0.02},
        {"kind": "update_schedule", "shape": "linear", "end_step": 16},
        {**freeze, "params": {"requires_grad": False}},
        reset,
    ]
    saved = folder / "own.pt"
    begun = 0
    if saved.exists():
        state = torch.load(saved)
        model.load_state_dict(state["model"]); optimizer.load_state_dict(state["optimizer"]); begun = state["step"]
    scheduler.base_lrs = [group["lr"] for group in optimizer.param_groups]
    ddp = model
    if how != "slurm":
        ddp = torch.nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
    used = {}
    options = Options(runs_dir=folder / "runs", server=False)
    max_steps = 12 if how != "slurm" else begun + 3 if attempt else 10**6
    with agenttune.session(
        model=ddp, optimizer=optimizer, scheduler=scheduler, max_steps=max_steps, start_step=begun, options=options
    ) as s:
        while True:
            if rank == 0 and attempt == 0 and s.global_step == 5:
                for order in orders[: 1 if how == "slurm" else None]:
                    ask = Proposal(command=parse_command(order), author=Author(principal="operator", name="test"))
                    LocalControl(folder / "runs").submit(s.run_id, ask)
            if attempt == 0 and s.global_step == 9 and how == "torchrun" and rank == 1:
                while sum(c.ack is not None for c in LocalControl(folder / "runs").commands(s.run_id)) < len(orders):
                    time.sleep(0.01)  # the log is written in the background
                os.kill(os.getpid(), signal.SIGKILL)
            if attempt == 1 and s.global_step == 9 and how == "torchrun" and rank == 0:
                raise ValueError("a bad batch")
            loss = ddp(torch.ones(2, 4)).pow(2).mean()
            optimizer.zero_grad(); loss.backward()
            used[s.global_step + 1] = optimizer.param_groups[0]["lr"]
            optimizer.step()
            scheduler.step()
            if s.global_step == 3 and rank == 0 and attempt == 0:
                torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": 4}, saved)
            used["trained"] = [p.requires_grad for p in model.parameters()]
            if how != "slurm" or attempt:
                (folder / f"used-{attempt}-{rank}.json").write_text(json.dumps(used))
            if how == "slurm":
                time.sleep(0.005)
            if s.step({"loss": loss.detach()}):
                break
    if how != "slurm":
        torch.distributed.destroy_process_group()
"""


def script_in(folder: Path) -> Path:
    path = folder / "train.py"
    path.write_text(textwrap.dedent(TRAIN), encoding="utf-8")
    return path


def used(folder: Path, attempt: int, rank: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"used-{attempt}-{rank}.json").read_text())
    return found


def the_run(folder: Path) -> tuple[RunInfo, RunLog]:
    (info,) = list_runs(folder / "runs")
    return info, RunLog.open(Path(info.path))


@pytest.fixture(scope="module")
def restarted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real torchrun: first rank 1 is killed, in the second attempt rank 0 raises, the third comes to its end."""
    folder = tmp_path_factory.mktemp("torchrun")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    words = [*torchrun, "--max-restarts=2", "--monitor-interval=0.1", str(script_in(folder)), str(folder), "torchrun"]
    # Without it, torch 2.13's restarts fail now and then: a rank reads where another one of the attempt before was.
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    ended = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, timeout=200, check=False)
    assert ended.returncode == 0, ended.stderr[-4000:]
    return folder


def reasons_of(log: RunLog) -> list[str]:
    """How the attempts before have ended, where they could not say it themselves."""
    events = log.events(kinds=["attempt_started"])
    return [event.body.reason for event in events if isinstance(event.body, AttemptStarted)]


def notes_of(log: RunLog) -> list[str]:
    return [e.body.text for e in log.events(kinds=["note_added"]) if isinstance(e.body, NoteAdded)]


# Slow, those of torchrun: six processes that import torch; the quicker are those of Slurm, below.
@pytest.mark.slow
def test_torchrun_starts_the_ranks_again_and_the_run_goes_on(restarted: Path) -> None:
    info, log = the_run(restarted)
    assert (info.status, info.attempt, info.step) == ("finished", 3, 12), "one run, however often it was started"
    assert used(restarted, 2, 0) == used(restarted, 2, 1), "all ranks alike"
    assert set(used(restarted, 2, 0)) == {"trained", *map(str, range(5, 13))}, "from the script's own checkpoint"
    started = [e.body for e in log.events(kinds=["attempt_started"]) if isinstance(e.body, AttemptStarted)]
    assert [(body.attempt, body.by) for body in started] == [(2, "torchrun"), (3, "torchrun")]
    assert all(reasons_of(log)), "also of ranks that the launcher ended before they could say it"
    assert info.branch == "branch-2"
    assert any("attempt 2 goes on at step 4; steps 5 to" in note for note in notes_of(log))
    assert any("a bad batch" in str(event.body) for event in log.events(kinds=["attempt_ended"]))
    steps = [row.step for row in log.points(0, 1000) if row.source == "step" and row.branch == "branch-2"]
    assert steps == list(range(5, 13))


@pytest.mark.slow
def test_values_plans_and_frozen_layers_are_set_again_on_every_rank(restarted: Path) -> None:
    _, log = the_run(restarted)
    first = [r for r in log.commands() if r.proposal.author.principal == "operator"]
    assert [r.state for r in first] == [State.APPLIED] * 4
    again = [r for r in log.commands() if r.proposal.author.principal == "trainer"]
    kinds = [r.command.kind for r in again]
    assert kinds == 2 * ["update_schedule", "model_layer_operation"], "the plan begins at the rate of before"
    assert {r.state for r in again} == {State.APPLIED}
    for attempt in (1, 2):
        now = used(restarted, attempt, 0)
        assert now["5"] == 0.02, "the rate"
        assert now["8"] == pytest.approx(0.02 * (16 - 7) / (16 - 4)), "on the plan to step 16, from where it goes on"
        assert now["trained"] == [False, False, True, True], "a frozen layer"


@pytest.mark.slow
def test_the_log_says_in_one_line_what_is_not_done_again(restarted: Path) -> None:
    _, log = the_run(restarted)
    told = [note for note in notes_of(log) if "not applied again" in note]
    assert len(told) == 1, told
    assert told[0].startswith("of attempt 1, not applied again: reset_parameters of layer 1 (")
    assert "after what was restored; ask for it again if wanted" in told[0]


def test_slurm_takes_a_job_away_and_the_requeued_one_goes_on(tmp_path: Path) -> None:
    script = script_in(tmp_path)
    job = {"SLURM_JOB_ID": "4711", "SLURM_CLUSTER_NAME": "test"}
    first = start(script, str(tmp_path), "slurm", folder=tmp_path, **job)
    deadline_s = time.monotonic() + 60
    while not any(info.step > 20 for info in list_runs(tmp_path / "runs")):
        assert time.monotonic() < deadline_s, first.err.read_text()
        time.sleep(0.02)
    first.process.terminate()
    ended = first.end()
    assert ended.code == 0, ended.err
    info, log = the_run(tmp_path)
    assert info.status == "interrupted"
    assert "SIGTERM from Slurm" in info.status_reason
    log.close()
    again = start(script, str(tmp_path), "slurm", folder=tmp_path, **job, SLURM_RESTART_COUNT="1").end()
    assert again.code == 0, again.err
    info, log = the_run(tmp_path)
    assert (info.status, info.attempt) == ("finished", 2)
    assert used(tmp_path, 1, 0)["5"] == 0.02
    journal = read_journal(log)
    assert any("started by Slurm" in happening.text for happening in journal.happenings)


def test_open_commands_settle_when_the_next_attempt_begins(tmp_path: Path) -> None:
    job = {"AGENTTUNE_JOB": "pretraining"}
    options = Options(runs_dir=tmp_path, server=False)
    with contextlib.closing(open_run(options, {"SLURM_JOB_ID": "1"})) as log:
        log.update_info(job=_key(job), pid=2**22 + 1, pid_started_s=1.0)  # a process that is gone
        ask = Proposal(command=UpdateOptimizer(lr=0.1), author=Author(principal="agent", name="a"))
        log.submit(ask, Verdict(decision="approved", decided_by="gate"))
    with contextlib.closing(open_run(options, job)) as log:
        (record,) = log.commands()
        assert record.state is State.EXPIRED
        assert record.ack is not None
        assert "asked for in attempt 1, which ended before it was applied" in record.ack.message
        assert (log.info().attempt, log.info().status) == (2, "starting")
        assert reasons_of(log) == ["it ended without closing the log"]
    assert len(list_runs(tmp_path)) == 1


def test_a_run_that_was_completed_is_not_taken_up(tmp_path: Path) -> None:
    job = {"AGENTTUNE_JOB": "nightly"}
    options = Options(runs_dir=tmp_path, server=False)
    with contextlib.closing(open_run(options, {"SLURM_JOB_ID": "2"})) as log:
        log.update_info(job=_key(job))
        log.append(StatusChanged(status="finished"))
    open_run(options, job).close()
    assert sorted(info.attempt for info in list_runs(tmp_path)) == [1, 1]


def _key(environ: dict[str, str]) -> str:
    job = job_of(environ)
    assert job is not None
    return job.key


def test_only_a_restart_goes_on() -> None:
    def told(**environ: str) -> Any:
        return job_of(environ, ["train.py", "--seed", "1"])

    assert told() is None
    elastic = {"TORCHELASTIC_RUN_ID": "a1", "TORCHELASTIC_RESTART_COUNT": "0", "TORCHELASTIC_MAX_RESTARTS": "2"}
    first, second = told(**elastic), told(**{**elastic, "TORCHELASTIC_RESTART_COUNT": "1"})
    assert first.key == second.key
    assert (first.is_restart, first.restarts_left, second.is_restart, second.restarts_left) == (False, 2, True, 1)
    assert told(**{**elastic, "TORCHELASTIC_RUN_ID": "a2"}).key != first.key
    shell = told(SLURM_JOB_ID="7", SLURM_PROCID="0")
    assert not shell.is_restart, "trainings that are started in an allocation one after the other are runs of their own"
    requeued = told(SLURM_JOB_ID="7", SLURM_PROCID="0", SLURM_RESTART_COUNT="1")
    assert requeued.is_restart
    assert requeued.key == shell.key
    own = told(AGENTTUNE_JOB="mine", AGENTTUNE_JOB_RESTARTS="1")
    assert (own.left_after(1), own.left_after(2)) == (1, 0), "the last attempt ends the run"
    assert told(SLURM_JOB_ID="7", SLURM_PROCID="1").key != shell.key, "each task of a sweep has its own run"


def test_a_requeued_launcher_goes_on_with_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train.py").write_text("", encoding="utf-8")
    path = tmp_path / "config.yaml"
    path.write_text("run: {script: train.py}\npolicy: noop\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLURM_JOB_ID", "4712")
    plan = make_plan(path)
    first = create_run(plan)
    first.log.append(StatusChanged(status="interrupted", reason="SIGTERM"))
    first.log.close()
    other = create_run(plan)  # by hand, in the same allocation: a run of its own
    assert other.run_id != first.run_id
    other.log.append(StatusChanged(status="finished"))
    other.log.close()
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    again = create_run(plan)
    assert again.run_id == first.run_id
    again.log.close()
    environ = {**os.environ, "AGENTTUNE_RUN_ID": again.run_id}
    with contextlib.closing(open_run(Options(runs_dir=plan.runs_dir, server=False), environ)) as log:
        assert (log.folder.name, log.info().attempt) == (first.run_id, 2), "its script trains in that run"
