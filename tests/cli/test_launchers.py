"""A training of several processes that `agenttune run` starts through torchrun or accelerate."""

from __future__ import annotations

import json
import os
import subprocess
import textwrap
from pathlib import Path

import psutil
import pytest

from agenttune.control.local import LocalControl
from agenttune.errors import ConfigError
from agenttune.launch import make_plan
from agenttune.launch.child_processes import kill_ranks
from agenttune.launch.exit_reason import rank_words
from agenttune.launch.supervisor import RANK_FAILURES
from agenttune.protocol.proposals import Proposal
from agenttune.protocol.rank_failures import RankFailure, contact_lost, first_failure
from tests.cli.conftest import Project, agenttune, wait_for

TRAIN = """
    import os, signal, sys, time
    import torch
    import agenttune

    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    model = torch.nn.Linear(4, 1)
    ddp = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.01)
    with agenttune.session(model=model, optimizer=optimizer, max_steps=100000) as s:
        while True:
            optimizer.zero_grad()
            loss = ddp(torch.ones(2, 4)).pow(2).mean()
            loss.backward()
            optimizer.step()
            if rank == 1 and s.global_step == 5 and "--die" in sys.argv:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(0.01)
            if s.step({"loss": loss.detach()}):
                break
    torch.distributed.destroy_process_group()
"""


def config(folder: Path, run: str) -> Path:
    (folder / "train.py").write_text(textwrap.dedent(TRAIN), encoding="utf-8")
    path = folder / "config.yaml"
    path.write_text(f"run: {{script: train.py, {run}}}\npolicy: noop\nserver: {{port: 0}}\n", encoding="utf-8")
    return path


def test_torchrun_gets_its_options_before_the_script(tmp_path: Path) -> None:
    run = "launcher: torchrun, torchrun: {nproc_per_node: 2, max_restarts: 3, options: [--tee, '3']}, args: [--lr, 0.1]"
    words = make_plan(config(tmp_path, run)).command
    begin = words.index("torchrun")
    assert words[begin - 2 : begin] == ["-m", "agenttune.trainer.distributed.launcher"]
    assert words[begin + 1 :] == [
        *("--nproc-per-node=2", "--nnodes=1", "--max-restarts=3", "--standalone", "--tee", "3"),
        *(str(tmp_path / "train.py"), "--lr", "0.1"),
    ]


def test_other_machines_are_told_what_to_start(tmp_path: Path) -> None:
    run = "launcher: torchrun, torchrun: {nproc_per_node: 8, nnodes: 2, master_addr: node-0, master_port: 29501}"
    plan = make_plan(config(tmp_path, run))
    assert "--node-rank=0" in plan.command
    assert "torchrun --nproc-per-node=8 --nnodes=2 --max-restarts=0 --node-rank=N --master-addr=node-0" in plan.notice
    elastic = "{nnodes: '1:4', rdzv_endpoint: 'node-0:29400', rdzv_id: job-7}"
    words = make_plan(config(tmp_path, f"launcher: torchrun, torchrun: {elastic}")).command
    assert {"--nnodes=1:4", "--rdzv-backend=c10d", "--rdzv-endpoint=node-0:29400", "--rdzv-id=job-7"} <= set(words)


def test_accelerate_reads_a_file_beside_the_config(tmp_path: Path) -> None:
    (tmp_path / "two.yaml").write_text("compute_environment: LOCAL_MACHINE\nnum_processes: 2\n", encoding="utf-8")
    run = "launcher: accelerate, accelerate: {config_file: two.yaml, num_processes: 2, mixed_precision: bf16}"
    words = make_plan(config(tmp_path, run)).command
    assert words[words.index("accelerate") + 1 : -1] == [
        f"--config_file={tmp_path / 'two.yaml'}",
        *("--num_processes=2", "--mixed_precision=bf16", "--multi_gpu"),
    ]


@pytest.mark.parametrize(
    ("run", "says"),
    [
        ("launcher: deepspeed", "'python', 'torchrun' or 'accelerate'"),
        ("torchrun: {nproc_per_node: 2}", "set launcher: torchrun"),
        ("launcher: torchrun, torchrun: {nproc_per_node: none}", "a number of processes, or one of auto, gpu, cpu"),
        ("launcher: torchrun, torchrun: {nnodes: 0}", "a number of nodes, or the fewest and the most as 1:4"),
        ("launcher: torchrun, torchrun: {nnodes: 2}", "set rdzv_endpoint (host:port) or master_addr"),
        ("launcher: torchrun, torchrun: {nnodes: 2, rdzv_endpoint: 'a:1'}", "need rdzv_id"),
        ("launcher: torchrun, torchrun: {rdzv_endpoint: node-0}", "host:port is wanted"),
        ("launcher: torchrun, torchrun: {nproc: 2}", "nproc_per_node"),
        ("launcher: accelerate, accelerate: {config_file: gone.yaml}", "accelerate config --config_file"),
        ("launcher: accelerate, accelerate: {config_file: train.py}", "is no config file of accelerate"),
        ("launcher: accelerate, accelerate: {cpu: true, num_processes: 2}", "use launcher: torchrun"),
        ("launcher: accelerate, accelerate: {num_machines: 2}", "set main_process_ip and main_process_port"),
    ],
)
def test_check_finds_what_the_launcher_would_find_too_late(tmp_path: Path, run: str, says: str) -> None:
    path = config(tmp_path, run)
    if "train.py}" in run:
        (tmp_path / "train.py").write_text("[a, list]", encoding="utf-8")
    with pytest.raises(ConfigError) as raised:
        make_plan(path)
    assert says in str(raised.value)
    assert agenttune("check", str(path), cwd=tmp_path).code != 0


def test_the_rank_that_failed_first_is_named(tmp_path: Path) -> None:
    lost = RankFailure(0, 10, 1, "RuntimeError: [../gloo/transport/tcp/pair.cc:534] Connection closed by peer", 99.0)
    killed = RankFailure(3, 13, -9, "Signal 9 (SIGKILL) received by PID 13", 100.0)
    ended = RankFailure(1, 11, -15, "", 99.0)
    raised = RankFailure(2, 12, 1, "ValueError: a bad sample", 100.0)
    assert first_failure([lost, ended, killed]) == killed, "the others failed because of it, whatever the clocks say"
    assert first_failure([lost, ended, raised]) == raised
    gone = RankFailure(0, 10, 1, "RanksApart: rank 3 is gone: process 13 has ended", 98.0)
    silent, aborted = RankFailure(0, 10, 1, "", 98.0), RankFailure(0, 10, -6, "", 98.0)
    for later in (gone, silent, aborted):
        assert first_failure([later, ended, killed]) == killed, later
        assert first_failure([later, ended, raised]) == raised, later
    assert first_failure([gone, ended]) == ended, "it noticed that the other is gone before the launcher did"
    assert first_failure([silent, ended]) == silent
    assert first_failure([lost, gone]) == gone
    assert gone.words() == "rank 0 (process 10) raised RanksApart: rank 3 is gone: process 13 has ended"
    assert first_failure([]) is None
    path = tmp_path / "failures.json"
    assert rank_words(path) == ""
    path.write_text(json.dumps([failure._asdict() for failure in (lost, ended, killed)]), encoding="utf-8")
    assert rank_words(path) == (
        "rank 3 (process 13) was killed by SIGKILL (the kernel does this when memory runs out); "
        "ranks 0, 1 failed after it"
    )
    assert rank_words(path, by_us=True) == "rank 3 (process 13) was killed by SIGKILL; ranks 0, 1 failed after it"
    path.write_text("{", encoding="utf-8")
    assert "which cannot be read from" in rank_words(path)
    assert "another rank ended, was killed or is stuck" in contact_lost(lost.message)
    assert contact_lost(raised.message) == ""


def _project(project: Project, args: str) -> None:
    script = project.folder / "train.py"
    script.write_text(textwrap.dedent(TRAIN), encoding="utf-8")
    project.write(script, args)
    path = project.folder / "config.yaml"
    options = "launcher: torchrun, torchrun: {nproc_per_node: 2, options: ['--monitor-interval=0.1']}"
    path.write_text(path.read_text(encoding="utf-8").replace("name: demo", f"name: demo, {options}"), encoding="utf-8")


@pytest.mark.slow  # quicker: the next one, in a pause; first_failure above
@pytest.mark.trainer
def test_a_killed_rank_is_named_and_nothing_of_the_job_is_left(project: Project) -> None:
    _project(project, "[--die]")
    result = project.run()
    assert result.code == 1, result.out + result.err
    info = project.launched[0].info()
    assert "rank 1 (process " in result.err
    assert "was killed by SIGKILL (the kernel does this when memory runs out)" in result.err
    assert info.status in ("failed", "lost")
    assert "another rank ended" in info.status_reason or "rank 1" in info.status_reason


@pytest.mark.trainer
def test_a_rank_killed_in_a_pause_is_named_and_not_the_one_that_noticed_it(project: Project) -> None:
    # Else torchrun itself would hold the store by which ranks know of each other, and it is stopped for a moment below.
    _project(project, "[], env: {TORCH_DISABLE_SHARE_RDZV_TCP_STORE: '1'}")
    launched = project.start()
    launched.wait_for_step(3)
    pause = {"command": {"kind": "pause_training"}, "author": {"name": "test", "principal": "operator"}}
    LocalControl(launched.runs_dir).submit(launched.info().run_id, Proposal.model_validate(pause))
    wait_for("the pause", lambda: launched.info().status == "paused")
    ranks = [p for p in psutil.Process(launched.process.pid).children(recursive=True) if _is_rank(p)]
    noticing, killed = sorted(ranks, key=lambda process: process.environ()["RANK"])
    torchrun = launched.child("distributed.launcher")
    torchrun.suspend()
    killed.kill()
    wait_for("the end of the rank that notices it", lambda: noticing.status() == psutil.STATUS_ZOMBIE)
    torchrun.resume()
    result = launched.end()
    assert result.code == 1, result.out + result.err
    failures = json.loads((Path(launched.info().path) / RANK_FAILURES).read_text(encoding="utf-8"))
    assert {f["rank"]: (f["exit_status"], f["message"][:11]) for f in failures} == {0: (1, "RanksApart:"), 1: (-9, "")}
    assert "rank 1 (process " in result.err
    assert "rank 0 failed after it" in result.err


@pytest.mark.slow  # quicker: the one before it
@pytest.mark.trainer
def test_ranks_do_not_outlive_a_killed_launcher(project: Project) -> None:
    _project(project, "[]")
    launched = project.start()
    launched.wait_for_step(3)
    ranks = [p for p in psutil.Process(launched.process.pid).children(recursive=True) if _is_rank(p)]
    assert len(ranks) == 2
    launched.child("distributed.launcher").kill()  # the launcher alone: its ranks have sessions of their own
    result = launched.end()
    assert result.code == 1, result.out + result.err
    wait_for("the ranks' end", lambda: not any(p.is_running() and p.status() != "zombie" for p in ranks))
    assert launched.info().status == "lost"


def test_ranks_of_another_run_of_that_name_and_second_are_let_live(tmp_path: Path) -> None:
    """Seen: two projects that began a run `demo` in one second; the one that ended first killed the other's ranks."""
    marks = [{"AGENTTUNE_RUN_ID": "demo-1", "AGENTTUNE_RUNS_DIR": str(tmp_path / name)} for name in ("a", "b")]
    rank = {"TORCHELASTIC_RUN_ID": "none", "LOCAL_RANK": "1"}
    given = [{**marks[0], **rank}, {**marks[1], **rank}, marks[0]]  # the last is no rank
    ours, theirs, other = (subprocess.Popen(["sleep", "60"], env=os.environ | env) for env in given)
    try:
        assert kill_ranks(marks[0]) == [ours.pid]
        assert ours.wait(60) == -9
        assert (theirs.poll(), other.poll()) == (None, None)
    finally:
        for process in (ours, theirs, other):
            process.kill()
            process.wait()


def _is_rank(process: psutil.Process) -> bool:
    words = process.cmdline()
    return any(word.endswith("train.py") for word in words) and "torchrun" not in words
