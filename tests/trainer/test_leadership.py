"""Who records a run of several processes, told before they have met; and where its log is kept."""

from __future__ import annotations

import contextlib
import json
import textwrap
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from agenttune.control.tunnel import is_on_several_nodes, tunnel
from agenttune.store.local_folder import SIGN, local_runs_dir
from agenttune.store.run_log import RunLog, list_runs, run_folder
from agenttune.trainer.distributed.rank import rank_of
from agenttune.trainer.options import Options, open_run
from tests.warm import run_ranks

pytestmark = pytest.mark.trainer

MEETS = {"MASTER_ADDR": "node-0"}
SLURM = {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "8", "SLURM_NTASKS": "8"}


@pytest.mark.parametrize(
    ("environ", "rank", "world_size"),
    [
        ({}, 0, 1),
        ({"RANK": "1", "WORLD_SIZE": "2"}, 1, 2),
        ({"RANK": "0", "WORLD_SIZE": "1"}, 0, 1),
        ({"RANK": "5", "WORLD_SIZE": "16", **SLURM, **MEETS}, 5, 16),  # srun torchrun: Slurm counts the nodes
        ({**SLURM, **MEETS, "SLURM_JOB_NAME": "pretrain"}, 3, 8),
        (SLURM, 0, 1),  # a sweep of eight trainings of their own
        ({**SLURM, **MEETS, "SLURM_JOB_NAME": "bash"}, 0, 1),  # a person's shell within an allocation
        ({**SLURM, **MEETS, "SLURM_PTY_PORT": "40000"}, 0, 1),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", **MEETS}, 0, 1),  # the batch script itself, or salloc's shell
        ({"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "4"}, 2, 4),
        ({"PMI_RANK": "1", "PMI_SIZE": "4", **MEETS}, 1, 4),
        ({"PMI_RANK": "1", "PMI_SIZE": "4"}, 0, 1),
        ({"RANK": "7", "WORLD_SIZE": "4"}, 0, 1),  # left behind by something else
        ({"RANK": "one", "WORLD_SIZE": "4"}, 0, 1),
    ],
)
def test_the_environment_tells_the_rank(environ: dict[str, str], rank: int, world_size: int) -> None:
    assert rank_of(environ)[:2] == (rank, world_size)


EARLY = """
    import json, os, sys
    from pathlib import Path
    import torch
    import agenttune
    from agenttune.control import LocalControl
    from agenttune.trainer import Options
    from agenttune.protocol.commands import UpdateOptimizer
    from agenttune.protocol.proposals import Author, Proposal

    folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    options = Options(runs_dir=folder / "runs", server=False)
    used = []
    with agenttune.session(model=model, optimizer=optimizer, max_steps=6, options=options) as s:
        if rank == 0:
            ask = Proposal(command=UpdateOptimizer(lr=0.02), author=Author(principal="operator", name="test"))
            LocalControl(folder / "runs").submit(s.run_id, ask)
        torch.distributed.init_process_group("gloo")
        ddp = torch.nn.parallel.DistributedDataParallel(model)
        while True:
            loss = ddp(torch.full((2, 4), 1.0 + rank)).pow(2).mean()
            optimizer.zero_grad(); loss.backward(); optimizer.step()
            used.append(optimizer.param_groups[0]["lr"])
            if s.step({"loss": loss.detach()}):
                break
        ids = s.run_id
    answer = {"lr": used, "run": ids, "weights": model.weight.tolist()}
    (folder / f"rank{rank}.json").write_text(json.dumps(answer))
    torch.distributed.destroy_process_group()
"""


def test_a_session_that_is_opened_before_the_processes_meet_is_one_run(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(EARLY))
    for ended in run_ranks(script, str(tmp_path), folder=tmp_path):
        assert ended.code == 0, ended.err[-3000:]
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    (info,) = list_runs(tmp_path / "runs")
    assert info.run_id == first["run"], "one id on all ranks"
    assert first["lr"] == [0.1, *[0.02] * 5], "what was asked for before they met reaches both at the same step"
    (record,) = RunLog.open(run_folder(tmp_path / "runs", info.run_id)).commands()
    assert record.ack is not None
    assert record.ack.outcome == "applied"


def test_a_folder_that_a_launcher_has_just_claimed_is_left_to_it(tmp_path: Path) -> None:
    now = datetime.now(timezone.utc)
    taken = {f"run-{now + timedelta(seconds=later):%Y%m%d-%H%M%S}" for later in range(-1, 60)}
    for name in taken:  # whatever second it is when the run starts
        (tmp_path / name).mkdir()
    with contextlib.closing(open_run(Options(runs_dir=tmp_path, server=False), {})) as log:
        assert log.folder.name.removesuffix("-2") in taken
        assert log.folder.name.endswith("-2")
    assert len(list_runs(tmp_path)) == 1, "no log in a folder that somebody else has made"


def test_a_network_folder_of_runs_gets_a_local_one_that_is_named(tmp_path: Path) -> None:
    shared, local = tmp_path / "home" / "runs", tmp_path / "local"
    local.mkdir()

    def kind_of(folder: Path) -> str:
        return "nfs4" if folder.is_relative_to(tmp_path / "home") else ""

    folder, words = local_runs_dir(shared, kind_of, (str(tmp_path / "home"), str(local)))
    assert folder.is_relative_to(local)
    assert folder.is_dir()
    assert "nfs4" in words
    assert str(folder) in words
    assert (shared / SIGN).read_text().strip() == words, "whoever looks in the folder finds where they are"
    assert local_runs_dir(shared, kind_of, (str(local),))[0] == folder, "the same for every command"
    assert local_runs_dir(tmp_path / "home" / "others", kind_of, (str(local),))[0] != folder
    assert local_runs_dir(local, kind_of, (str(local),)) == (local, "")


def test_who_is_on_another_machine_is_told_how_to_reach_the_server() -> None:
    words = tunnel("http://127.0.0.1:7008", "gpu-17.cluster")
    assert "host gpu-17.cluster, port 7008" in words
    assert "ssh -N -L 7008:127.0.0.1:7008 gpu-17.cluster" in words
    assert is_on_several_nodes(16, {"LOCAL_WORLD_SIZE": "8"})
    assert not is_on_several_nodes(8, {"LOCAL_WORLD_SIZE": "8", "SLURM_NNODES": "4"})
    assert is_on_several_nodes(4, {"SLURM_NNODES": "2"})
    assert not is_on_several_nodes(1, {"SLURM_NNODES": "2"})
