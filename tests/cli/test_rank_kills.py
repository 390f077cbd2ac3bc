"""A rank or the server killed at any moment: nothing hangs, the log names who is gone, the launcher has the right code.

`test_launchers` and `test_rank_faults` are the quicker tests of the same promises.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from agenttune.control.local import LocalControl
from agenttune.protocol.events import CheckpointSaved
from agenttune.protocol.proposals import Proposal
from agenttune.store.run_log import RunLog
from tests.cli.conftest import Launched, Project, wait_for

pytestmark = [pytest.mark.trainer, pytest.mark.slow]

TRAIN = """
    import datetime, time
    import torch
    import agenttune

    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", timeout=datetime.timedelta(seconds=20))
    torch.manual_seed(0)
    model = torch.nn.Linear(256, 256)
    ddp = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.Adam(ddp.parameters(), lr=0.01)
    with agenttune.session(model=model, optimizer=optimizer, max_steps=100000) as s:
        while True:
            optimizer.zero_grad()
            loss = ddp(torch.ones(2, 256)).pow(2).mean()
            loss.backward()
            optimizer.step()
            time.sleep(0.005)
            if s.step({"loss": loss.detach()}):
                break
    torch.distributed.destroy_process_group()
"""
MOMENTS = ("starting", "training", "saving", "paused")


def begun(project: Project) -> Launched:
    script = project.folder / "train.py"
    script.write_text(textwrap.dedent(TRAIN), encoding="utf-8")
    project.write(script, "[]")
    path = project.folder / "config.yaml"
    options = "launcher: torchrun, torchrun: {nproc_per_node: 2, options: ['--monitor-interval=0.1']}"
    path.write_text(path.read_text(encoding="utf-8").replace("name: demo", f"name: demo, {options}"), encoding="utf-8")
    return project.start()


def ask(launched: Launched, **command: object) -> None:
    proposal = {"command": command, "author": {"name": "test", "principal": "operator"}}
    LocalControl(launched.runs_dir).submit(launched.info().run_id, Proposal.model_validate(proposal))


def bring_to(launched: Launched, moment: str, chance: random.Random) -> None:
    if moment == "starting":
        time.sleep(chance.random() * 4)
        return
    launched.wait_for_step(chance.randint(1, 60))
    if moment == "saving":
        for _ in range(5):
            ask(launched, kind="save_checkpoint")
        launched.wait_for_event("checkpoint_saved")
    elif moment == "paused":
        ask(launched, kind="pause_training")
        wait_for("the pause", lambda: launched.info().status == "paused")
    time.sleep(chance.random() * 0.2)


def rank_of(launched: Launched, rank: int) -> psutil.Process:
    found: list[psutil.Process] = []

    def look() -> bool:
        for process in psutil.Process(launched.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                words = process.cmdline()
                if any(w.endswith("train.py") for w in words) and process.environ().get("RANK") == str(rank):
                    found.append(process)
        return bool(found)

    wait_for(f"rank {rank}", look)
    return found[0]


def no_half_checkpoint(folder: Path) -> bool:
    with contextlib.closing(RunLog.open(folder)) as log:
        bodies = [event.body for event in log.events(kinds=["checkpoint_saved"])]
    offered = [Path(body.path) for body in bodies if isinstance(body, CheckpointSaved) and body.path]
    return all((path / "agenttune.json").is_file() for path in offered)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_at_any_moment_ends_the_job_and_is_named(
    project: Project, rank: int, moment: str
) -> None:
    chance = random.Random(f"{rank} {moment}")
    launched = begun(project)
    victim = rank_of(launched, rank)
    others = [rank_of(launched, other) for other in (0, 1) if other != rank]
    bring_to(launched, moment, chance)
    victim.kill()
    result = launched.end()
    assert result.code == 1, result.out + result.err
    killed = re.compile(rf"rank {rank} \(process {victim.pid}( on [^)]*)?\) was killed by SIGKILL")
    assert killed.search(result.err), result.err
    info = launched.info()
    assert info.status in ("failed", "lost")
    told = [info.status_reason, *launched.events("note_added")]
    assert any(killed.search(text) for text in told), told
    assert no_half_checkpoint(Path(info.path))
    wait_for("the other rank's end", lambda: not any(p.is_running() and p.status() != "zombie" for p in others))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_server_that_is_killed_at_any_moment_is_started_again_and_training_goes_on(
    project: Project, moment: str
) -> None:
    launched = begun(project)
    rank_of(launched, 1)
    bring_to(launched, moment, random.Random(moment))
    os.kill(launched.child("agenttune.server").pid, signal.SIGKILL)
    wait_for("the note", lambda: any("server" in text for text in launched.events("note_added")))
    if moment == "paused":
        ask(launched, kind="resume_training")
    launched.wait_for_step(launched.info().step + 5)
    launched.stop_training()
    result = launched.end()
    assert result.code == 0, result.out + result.err
    assert launched.info().status == "stopped"
