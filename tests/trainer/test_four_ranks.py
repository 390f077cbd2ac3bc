"""The core of all commands once with four processes, with uneven last batches, and with ranks that end early."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import pytest

from agenttune.protocol.events import NoteAdded
from tests.trainer.test_rank_commands import acks, log_of
from tests.warm import run_ranks

pytestmark = [pytest.mark.trainer, pytest.mark.slow]  # quicker, with two: test_rank_commands.py

RANKS = 4
SCRIPT = """
    import torch
    from torch.utils.data import DataLoader
    from tests.trainer.conftest import Points
    from tests.trainer.rank_loop import RANK, Loop, begin, finish

    folder, told = begin(20.0), {}

    def uneven(dataset):
        # 97 points: rank 0 has 25 of them, 7 batches and a last one of one; the others have 24, 6 batches.
        return DataLoader(dataset, batch_size=4, sampler=range(RANK, len(dataset), 4))

    held = {"temperature": 1.0}

    def set_value(value):
        if RANK == 2 and value == 7.0:
            raise ValueError("not on this rank")
        held["temperature"] = value

    told["core"] = Loop(
        folder / "core",
        {2: [{"kind": "update_optimizer", "lr": 5e-3, "weight_decay": 0.1}],
         4: [{"kind": "set_knob", "name": "temperature", "value": 0.5}],
         5: [{"kind": "set_knob", "name": "temperature", "value": 7.0, "id": "refused"}],
         6: [{"kind": "do_evaluate"}, {"kind": "save_checkpoint", "tag": "disk", "id": "disk"}],
         8: [{"kind": "model_layer_operation", "layer_name": "second", "operation_name": "reset_parameters"}],
         12: [{"kind": "load_checkpoint", "checkpoint_id": "disk", "id": "back"}],
         14: [{"kind": "pause_training"}]},
        paused_orders=[{"kind": "save_checkpoint", "keep_in": "memory"}, {"kind": "resume_training"}],
        steps=20, data=Points(97), load=uneven, evaluate=lambda model: {"eval_loss": 1.0},
        offers=lambda session: session.register_knob("temperature", lambda: held["temperature"], set_value),
    ).run() | {"held": held["temperature"]}

    told["sharded"] = Loop(
        folder / "sharded",
        {4: [{"kind": "save_checkpoint", "tag": "disk", "id": "disk"}],
         8: [{"kind": "load_checkpoint", "checkpoint_id": "disk", "id": "back"}]},
        engine="fsdp2", data=Points(97), load=uneven,
    ).run()

    told["early"] = Loop(folder / "early", engine="plain", steps=12 if RANK < 2 else 6).run()

    torch.distributed.barrier()  # the next run begins when this one is over everywhere
    told["asked"] = Loop(
        folder / "asked", {8: [{"kind": "update_optimizer", "lr": 0.5, "id": "late"}]}, engine="plain",
        steps=6 if RANK == 2 else 14,
    ).run()
    finish(folder, told)
"""


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("ranks")
    script = folder / "train.py"
    script.write_text(textwrap.dedent(SCRIPT))
    for ended in run_ranks(script, str(folder), folder=folder, ranks=RANKS):
        assert ended.code == 0, ended.err[-3000:]
    return folder, [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(RANKS)]


@pytest.mark.parametrize("name", ["core", "sharded"])
def test_all_ranks_apply_the_same_and_a_return_is_exact(ranks: tuple[Path, list[dict[str, Any]]], name: str) -> None:
    told = [rank[name] for rank in ranks[1]]
    found = acks(ranks[0] / name)
    assert [who for who, ack in found.items() if ack.outcome != "applied"] == (["refused"] if name == "core" else [])
    for same in ("weights", "optimizer", "lr", "steps"):
        assert len({json.dumps(rank[same]) for rank in told}) == 1, same
    assert len({json.dumps(rank["losses"]) for rank in told}) == RANKS, "each its own data"
    saved, left = found["disk"].step, found["back"].result["from_step"]
    reset = found["at-8-0"].step if name == "core" else left
    for rank in told:
        begun = left + reset - saved  # the reset layer is not reset the second time
        assert rank["losses"][saved:reset] == rank["losses"][left : left + reset - saved]
        assert rank["steps"][begun - 1] == reset


def test_a_rank_among_four_that_cannot_is_named(ranks: tuple[Path, list[dict[str, Any]]]) -> None:
    refused = acks(ranks[0] / "core")["refused"]
    assert refused.message == "rank 2: ValueError: not on this rank; put back on all ranks"
    assert {rank["core"]["held"] for rank in ranks[1]} == {0.5}


def test_ranks_that_end_before_the_others_hold_nobody_up(ranks: tuple[Path, list[dict[str, Any]]]) -> None:
    info = log_of(ranks[0] / "early").info()
    assert (info.status, info.step) == ("finished", 12)
    assert [len(rank["early"]["steps"]) for rank in ranks[1]] == [12, 12, 6, 6]


def test_a_command_after_ranks_have_ended_holds_nobody_up(ranks: tuple[Path, list[dict[str, Any]]]) -> None:
    """The ranks that are left find out in the midst of a meeting, and train on to their end without commands."""
    folder, told = ranks[0] / "asked", [rank["asked"] for rank in ranks[1]]
    assert [len(rank["steps"]) for rank in told] == [14, 14, 6, 14]
    log = log_of(folder)
    assert (log.info().status, log.info().step) == ("finished", 14)
    assert acks(folder)["late"].outcome in ("failed", "expired")
    assert 0.5 not in [rate for rank in told for rate in rank["lr"]], "applied on none of them"
    assert len({json.dumps(rank["lr"]) for rank in (told[0], told[1], told[3])}) == 1
    texts = [e.body.text for e in log.events(kinds=["note_added"]) if isinstance(e.body, NoteAdded)]
    assert any("rank 2 is no longer there" in text and "takes no more commands" in text for text in texts), texts
