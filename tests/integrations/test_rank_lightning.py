"""Lightning on two processes under DDP goes back: weights, optimizer and rate are those of before, on both."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.test_rank_commands import acks
from tests.warm import run_ranks

pytestmark = pytest.mark.trainer

SCRIPT = """
    import json, os, sys
    from pathlib import Path
    import torch
    from tests.integrations.conftest import Desk, Trained, Witness
    from tests.integrations.ranked_suite import DdpLightningLoop
    from tests.trainer.conftest import At

    torch.set_num_threads(1)
    folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    orders = [
        At(3, {"kind": "save_checkpoint", "keep_in": "memory", "tag": "ram"}, "ram"),
        At(4, {"kind": "save_checkpoint", "tag": "disk"}, "disk"),
        At(7, {"kind": "load_checkpoint", "checkpoint_id": "ram"}, "to-ram"),
        At(9, {"kind": "load_checkpoint", "checkpoint_id": "disk", "lr": 5e-4, "reset_optimizer": True}, "to-disk"),
        At(11, {"kind": "load_checkpoint", "checkpoint_id": "start"}, "to-start"),
    ]
    driver = DdpLightningLoop()
    trained = Trained(driver.model(), Witness(), folder / "runs", held={"temperature": 1.0})
    desk = Desk(folder / "runs", orders if rank == 0 else [])
    driver._train(trained, desk, folder, driver.dataset(), True)
    witness = trained.witness
    told = {"weights": witness.weights, "used": witness.used, "losses": witness.losses}
    (folder / f"rank{rank}.json").write_text(json.dumps(told))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
"""


def test_it_goes_back_on_both(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(SCRIPT))
    for ended in run_ranks(script, str(tmp_path), folder=tmp_path):
        assert ended.code == 0, ended.err[-3000:]
    told: list[dict[str, Any]] = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    found = acks(tmp_path)
    assert {name: (ack.outcome, ack.message) for name, ack in found.items() if ack.outcome != "applied"} == {}
    assert told[0]["weights"] == told[1]["weights"]
    assert told[0]["used"] == told[1]["used"]
    assert told[0]["losses"] != told[1]["losses"], "each its own data"
    begun = 0  # how many steps were taken until a return
    step = 0
    for name, saved in (("to-ram", found["ram"].step), ("to-disk", found["disk"].step), ("to-start", 0)):
        begun += found[name].result["from_step"] - step
        step = found[name].step
        assert step == saved
        assert told[0]["weights"][begun] == told[0]["weights"][saved], "bit by bit"
        if name == "to-disk":
            assert told[0]["used"][begun] != told[0]["used"][saved]
        else:
            assert told[0]["used"][begun] == told[0]["used"][saved]
