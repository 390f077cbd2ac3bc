"""Checkpoints that are there get a tag and a pin, and are deleted by a rule; never those that something rests on."""

from __future__ import annotations

from pathlib import Path

import pytest

from agenttune.errors import CommandError
from agenttune.protocol.commands import parse_command
from agenttune.protocol.proposals import State
from agenttune.protocol.reads import CheckpointsQuery
from tests.trainer.conftest import At, Bench
from tests.trainer.test_branches import steered

pytestmark = pytest.mark.trainer

SAVE = {"kind": "save_checkpoint"}


def test_checkpoints_get_a_tag_and_a_pin_and_are_deleted_by_a_rule(bench: Bench) -> None:
    result = steered(
        bench,
        [
            *(At(step, {**SAVE, "tag": f"at-{step}"}) for step in (2, 4, 6, 8, 10)),
            At(12, {"kind": "update_checkpoint", "checkpoint_id": "at-2", "tag": "first", "pin": True}),
            At(14, {"kind": "load_checkpoint", "checkpoint_id": "at-4"}),
            At(16, {"kind": "delete_checkpoints", "keep_last": 1}),
            At(18, {"kind": "delete_checkpoints", "checkpoint_ids": ["first"]}),
            At(20, {"kind": "update_checkpoint", "checkpoint_id": "at-10", "tag": ""}),
        ],
        max_steps=24,
    )
    log = result.log()
    told = {record.command.kind: record for record in log.commands()}
    from agenttune.control import LocalControl

    control = LocalControl(log.folder.parent)
    saved = control.read(log.folder.name, CheckpointsQuery()).checkpoints
    own = {checkpoint.step or 0: checkpoint for checkpoint in saved if not checkpoint.kept_as}
    # 2 is pinned, a branch began from 4, and 10 is the newest.
    assert sorted(own) == [2, 4, 10]
    assert (own[2].tag, own[2].pinned) == ("first", True)
    assert own[10].tag is None
    assert all(Path(checkpoint.path).is_dir() for checkpoint in own.values())
    refused = told["delete_checkpoints"]  # the last one of the kind
    assert refused.state is State.FAILED
    assert refused.ack is not None
    assert "it is pinned; unpin it first" in refused.ack.message


@pytest.mark.parametrize("given", [{}, {"checkpoint_ids": ["a"], "keep_last": 1}])
def test_what_is_to_be_deleted_is_named_or_ruled_and_not_both(given: dict[str, object]) -> None:
    with pytest.raises(CommandError, match="either checkpoint_ids, or a rule"):
        parse_command({"kind": "delete_checkpoints", **given})
