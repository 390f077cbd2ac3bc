"""DDP's `join()`, ranks with unequal numbers of batches: training goes on to its end and the log says what does not."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import pytest

from agenttune.protocol.events import NoteAdded
from agenttune.store.run_log import RunLog, list_runs
from tests.warm import run_ranks

pytestmark = pytest.mark.trainer

CASES = {"first ends": (4, (3, 9, 9)), "last ends": (4, (9, 9, 0)), "from the start": (0, (6, 2, 4))}
"""Steps before it, and each rank's within it."""
SCRIPT = """
    import torch
    import agenttune
    from agenttune.trainer import Options
    from tests.trainer.rank_loop import RANK, begin, finish, put

    folder, told = begin(60.0), {}

    def trained(name, batches, before):
        here = folder / name
        torch.manual_seed(0)
        ddp = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 1))
        o = torch.optim.SGD(ddp.parameters(), lr=0.01)
        losses = []

        def step(s):
            loss = ddp(torch.full((2, 4), 1.0 + RANK)).pow(2).mean()
            o.zero_grad(); loss.backward(); o.step()
            losses.append(float(loss))
            s.step({"loss": loss.detach()})

        options = Options(runs_dir=here / "runs", server=False)
        with agenttune.session(model=ddp, optimizer=o, max_steps=1000, options=options) as s:
            for number in range(before):
                if RANK == 0 and number == 1:
                    put(here, {"kind": "update_optimizer", "lr": 0.005}, "early")
                step(s)
            with ddp.join():
                for _ in range(batches[RANK]):
                    step(s)
                    if RANK == 0 and len(losses) == before + 1:
                        put(here, {"kind": "update_optimizer", "lr": 0.5}, "late")
        return {"losses": losses, "lr": o.param_groups[0]["lr"]}

    for name, (before, batches) in __CASES__.items():
        told[name] = trained(name, batches, before)
    finish(folder, told)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It used to wait until the limit of collective operations had passed, and to fail."""
    folder = tmp_path_factory.mktemp("ranks")
    script = folder / "train.py"
    script.write_text(textwrap.dedent(SCRIPT).replace("__CASES__", repr(CASES)))
    for ended in run_ranks(script, str(folder), folder=folder, ranks=3):
        assert ended.code == 0, ended.err[-3000:]
        assert "Traceback" not in ended.err, ended.err[-3000:]
    return folder


@pytest.mark.parametrize("case", CASES)
def test_training_comes_to_its_end_and_the_log_says_that_commands_have_ended(folder: Path, case: str) -> None:
    before, batches = CASES[case]
    told: list[dict[str, Any]] = [json.loads((folder / f"rank{rank}.json").read_text())[case] for rank in range(3)]
    assert [len(rank["losses"]) for rank in told] == [before + more for more in batches]
    [info] = list_runs(folder / case / "runs")
    assert (info.status, info.step) == ("finished", before + batches[0])
    log = RunLog.open(Path(info.path))
    notes = [e.body.text for e in log.events(kinds=["note_added"]) if isinstance(e.body, NoteAdded)]
    assert any("join()" in note and "takes no more commands" in note for note in notes), notes
    states = {record.command_id: record.state for record in log.commands()}
    assert states.pop("early", "applied") == "applied"
    assert states.pop("late", "expired") == "expired"
    assert {rank["lr"] for rank in told} == {0.005 if before else 0.01}, "alike on all ranks"
    steps = [row.step for row in log.points(0, 1000) if row.source == "step"]
    assert steps == list(range(1, before + batches[0] + 1))
