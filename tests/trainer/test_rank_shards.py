"""FSDP2 (`fully_shard`) on two gloo processes: layers are read and reset whole, a return is exact, and a checkpoint in
shards is one that another number of ranks goes on from."""

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
    import torch
    from tests.trainer import rank_loop
    from tests.trainer.rank_loop import Loop, begin, finish, state_of, weights_of

    folder, told = begin(), {}
    told["alone"] = Loop(folder / "alone", engine="fsdp2", attached=False).run()
    told["quiet"] = Loop(folder / "quiet", engine="fsdp2").run()
    told["layers"] = Loop(
        folder / "layers",
        {2: [{"kind": "read_model", "norms": True}],
         4: [{"kind": "model_layer_operation", "layer_name": "second", "operation_name": "reset_parameters"}],
         6: [{"kind": "model_layer_operation", "layer_name": "first", "operation_name": "requires_grad_",
              "params": {"requires_grad": False}}],
         8: [{"kind": "update_optimizer", "lr": 1e-3, "weight_decay": 0.2}]},
        engine="fsdp2",
    ).run()
    told["back"] = Loop(
        folder / "back",
        {2: [{"kind": "save_checkpoint", "keep_in": "memory", "tag": "ram"}],
         4: [{"kind": "save_checkpoint", "tag": "disk"}],
         7: [{"kind": "load_checkpoint", "checkpoint_id": "ram"}],
         9: [{"kind": "load_checkpoint", "checkpoint_id": "disk"}]},
        engine="fsdp2", steps=11,
    ).run()
    finish(folder, told)
"""

OTHER_SIZE = """
    import json, sys
    from pathlib import Path
    import torch
    from agenttune.trainer.checkpoints.checkpoint_files import check_fits, read_state
    from agenttune.trainer.checkpoints.training_state import restore_model, restore_optimizer
    from tests.trainer.conftest import TinyModel
    from tests.trainer.rank_loop import Loop, begin, finish, state_of, weights_of

    folder = begin()
    loop = Loop(folder)
    loop.engine = "fsdp2"
    loop.model = TinyModel()
    model = loop._wrapped()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0)
    saved = Path(sys.argv[2])
    check_fits(saved, model)
    state = read_state(saved, model, optimizer)
    restore_model(model, state.model)
    restore_optimizer(optimizer, state.optimizer)
    told = {"weights": weights_of(model), "optimizer": state_of(optimizer), "step": state.step}
    finish(folder, told)
"""

Ranks = tuple[Path, list[dict[str, Any]]]


def run(folder: Path, script: str, ranks: int, *arguments: str) -> list[dict[str, Any]]:
    folder.mkdir(exist_ok=True)
    path = folder / "train.py"
    path.write_text(textwrap.dedent(script))
    for ended in run_ranks(path, str(folder), *arguments, folder=folder, ranks=ranks):
        assert ended.code == 0, ended.err[-3000:]
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(ranks)]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Ranks:
    folder = tmp_path_factory.mktemp("ranks")
    return folder, run(folder, SCRIPT, 2)


def test_with_no_command_it_trains_as_without_agenttune(ranks: Ranks) -> None:
    for told in ranks[1]:
        assert told["quiet"] == told["alone"] | {"steps": told["quiet"]["steps"]}


def test_layers_are_read_with_norms_and_reset_whole(ranks: Ranks) -> None:
    folder, (first, second) = ranks
    found = acks(folder / "layers")
    assert found["at-2-0"].outcome == "applied", found["at-2-0"].message
    assert found["at-2-0"].result["weight_norm"] > 0
    assert found["at-4-0"].outcome == "applied", found["at-4-0"].message
    (change,) = found["at-4-0"].changes
    assert change.effective != change.previous
    assert "find_unused_parameters" in found["at-6-0"].message
    assert found["at-8-0"].outcome == "applied"
    assert first["layers"]["weights"] == second["layers"]["weights"]


def test_a_return_is_exact_from_memory_and_from_shards(ranks: Ranks) -> None:
    folder, told = ranks
    found = acks(folder / "back")
    assert {name: ack.outcome for name, ack in found.items()} == dict.fromkeys(found, "applied"), found
    assert told[0]["back"]["weights"] == told[1]["back"]["weights"]
    for rank in told:
        visits: dict[int, list[float]] = {}
        for step, loss in zip(rank["back"]["steps"], rank["back"]["losses"], strict=True):
            visits.setdefault(step, []).append(loss)
        assert sum(len(seen) > 1 for seen in visits.values()) >= 5
        assert {step: seen for step, seen in visits.items() if len(set(seen)) > 1} == {}


def test_another_number_of_ranks_reads_the_shards(ranks: Ranks, tmp_path: Path) -> None:
    saved = acks(ranks[0] / "back")["at-4-0"]
    one = run(tmp_path / "one", OTHER_SIZE, 1, saved.result["path"])[0]
    two = run(tmp_path / "two", OTHER_SIZE, 2, saved.result["path"])
    assert one == two[0] == two[1]
    assert one["step"] == saved.step
