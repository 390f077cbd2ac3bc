"""What a run of several ranks tells of all of them: averaged losses, and who holds up the others."""

from __future__ import annotations

import json
import math
import textwrap
from pathlib import Path

import pytest

from agenttune.protocol.rank_reads import RanksRead
from agenttune.store.run_log import RunLog, list_runs, run_folder
from tests.warm import run_ranks

pytestmark = pytest.mark.trainer

SCRIPT = """
    import json, os, sys, time
    from pathlib import Path
    import torch
    import agenttune
    from agenttune.trainer import Options
    from agenttune.trainer.distributed import heartbeats

    heartbeats.INTERVAL_S = heartbeats.TELL_S = 0.05
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1)
    ddp = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.01)
    own = []
    with agenttune.session(
        model=model, optimizer=optimizer, max_steps=40, options=Options(runs_dir=folder / "runs", server=False)
    ) as s:
        while True:
            optimizer.zero_grad()
            loss = ddp(torch.full((2, 4), 1.0 + rank)).pow(2).mean()
            loss.backward()
            optimizer.step()
            told = loss.detach()
            if rank == 1 and s.global_step == 29:
                told = told * float("nan")
            own.append(told.item())
            if rank == 1:
                time.sleep(0.02)
            if s.step({"loss": told}):
                break
    (folder / f"rank{rank}.json").write_text(json.dumps({"own": own, "weights": model.weight.tolist()}))
    torch.distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    script = folder / "train.py"
    script.write_text(textwrap.dedent(SCRIPT))
    for ended in run_ranks(script, str(folder), folder=folder):
        assert ended.code == 0, ended.err[-3000:]
        assert "Traceback" not in ended.err, ended.err[-3000:]
    return folder


def own(folder: Path, rank: int) -> list[float]:
    found: list[float] = json.loads((folder / f"rank{rank}.json").read_text())["own"]
    return found


def log_of(folder: Path) -> RunLog:
    (info,) = list_runs(folder / "runs")
    return RunLog.open(run_folder(folder / "runs", info.run_id))


def test_the_recorded_loss_is_the_mean_of_all_ranks_at_every_step(trained: Path) -> None:
    rows = [row for row in log_of(trained).points(0, 1000) if row.source == "step"]
    assert [row.step for row in rows] == list(range(1, 41)), "each once, in order"
    first, second = own(trained, 0), own(trained, 1)
    means = [(a + b) / 2 for a, b in zip(first, second, strict=True)]
    told = [row.values["loss"] for row in rows]
    assert math.isnan(told[29]), "a loss that is NaN on one rank is seen"
    assert [v for v in told if not math.isnan(v)] == pytest.approx([v for v in means if not math.isnan(v)])
    assert first[0] != pytest.approx(second[0])


def test_the_ranks_tell_of_their_steps(trained: Path) -> None:
    reads = [e.body for e in log_of(trained).events(kinds=["ranks_read"]) if isinstance(e.body, RanksRead)]
    assert reads, "no reading of the ranks"
    read = reads[-1]
    assert len(read.steps) == len(read.heard_s) == 2
    assert min(read.memory_bytes) > 0
    assert max(step for r in reads for step in r.steps) > 0
    assert all(limit is None or limit > 0 for limit in (r.limit_s for r in reads))
