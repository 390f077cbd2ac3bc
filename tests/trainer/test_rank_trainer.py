"""transformers' Trainer on two processes under DDP goes back in place, and probes."""

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
    from tests.trainer.conftest import At, Bench, Submitter, TinyModel

    torch.set_num_threads(1)
    folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    orders = [
        At(3, {"kind": "save_checkpoint", "keep_in": "memory", "tag": "ram"}, "ram"),
        At(5, {"kind": "save_checkpoint", "tag": "disk"}, "disk"),
        At(8, {"kind": "load_checkpoint", "checkpoint_id": "ram"}, "to-ram"),
        At(11, {"kind": "load_checkpoint", "checkpoint_id": "disk"}, "to-disk"),
        At(14, {"kind": "probe", "steps": 2, "candidates": [{"kind": "update_optimizer", "lr": 2e-2}]}, "probe"),
    ]
    model = TinyModel(dropout=0.3)
    result = Bench(folder).trainer(orders, model=model, max_steps=18, ddp_backend="gloo", data_seed=5,
                                   ddp_find_unused_parameters=False)
    seen = []
    def note(module, inputs, output):
        if module.training:
            seen.append((result.trainer.state.global_step + 1, float(output["loss"].detach())))
    model.register_forward_hook(note)
    if rank:
        result.trainer.remove_callback(Submitter)
    else:
        submitter = next(c for c in result.trainer.callback_handler.callbacks if isinstance(c, Submitter))
        once = submitter.submit
        done = set()
        submitter.submit = lambda step: None if step in done else (done.add(step), once(step))
    result.trainer.train()
    weights = [p.detach().sum().item() for p in model.parameters()]
    (folder / f"rank{rank}.json").write_text(json.dumps({"seen": seen, "weights": weights}))
    torch.distributed.destroy_process_group()
"""


def test_it_goes_back_exactly_and_probes(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(SCRIPT))
    for ended in run_ranks(script, str(tmp_path), folder=tmp_path):
        assert ended.code == 0, ended.err[-3000:]
    told: list[dict[str, Any]] = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert told[0]["weights"] == told[1]["weights"]
    found = acks(tmp_path)
    assert {name: (ack.outcome, ack.message) for name, ack in found.items() if ack.outcome != "applied"} == {}
    assert len(found) == 5
    probed = found["probe"].step
    for rank in told:
        visits: dict[int, set[float]] = {}
        for step, loss in rank["seen"]:
            if step <= probed:
                visits.setdefault(step, set()).add(loss)
        assert len(rank["seen"]) > 18
        assert {step: seen for step, seen in visits.items() if len(seen) > 1} == {}
