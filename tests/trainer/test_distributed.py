"""Two processes: rank 0 reads the log, both apply the same at the same step."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest

from agenttune.store.run_log import RunLog, list_runs, run_folder
from tests.warm import run_ranks

pytestmark = pytest.mark.trainer

SCRIPT = """
    import json, os, sys
    from pathlib import Path
    import torch
    from tests.trainer.conftest import At, Bench, Submitter

    torch.set_num_threads(1)
    folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    orders = [
        At(3, {"kind": "update_optimizer", "lr": 5e-4}),
        At(5, {"kind": "do_evaluate"}),
        At(6, {"kind": "update_training", "gradient_accumulation_steps": 2}),
        At(7, {"kind": "save_checkpoint"}),
        At(9, {"kind": "stop_training", "save": False}),
    ]
    result = Bench(folder).trainer(orders, ddp_backend="gloo", ddp_find_unused_parameters=False)
    if rank:
        result.trainer.remove_callback(Submitter)
    groups = len(torch.distributed.distributed_c10d._world.pg_map)
    result.trainer.train()
    assert len(torch.distributed.distributed_c10d._world.pg_map) == groups, "each train() would leave a group more"
    weights = [p.detach().sum().item() for p in result.trainer.model.parameters()]
    answer = {"used": result.witness.used, "weights": weights, "step": result.trainer.state.global_step}
    (folder / f"rank{rank}.json").write_text(json.dumps(answer))
    # As torch asks for: its default group, alive when the interpreter exits, may abort the process.
    torch.distributed.destroy_process_group()
"""


def test_both_ranks_apply_the_same_commands_and_one_answers(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(SCRIPT))
    for ended in run_ranks(script, str(tmp_path), folder=tmp_path):
        assert ended.code == 0, ended.err[-3000:]
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert first["step"] == 9
    assert first["used"][4] == [5e-4, 5e-4], "within two steps"
    (info,) = list_runs(tmp_path / "runs")
    assert info.status == "stopped"
    acks = [record.ack for record in RunLog.open(run_folder(tmp_path / "runs", info.run_id)).commands()]
    assert [ack.outcome for ack in acks if ack is not None] == ["applied"] * 5
