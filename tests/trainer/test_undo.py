"""The command that takes a change back says what the ack said was there before."""

from __future__ import annotations

from typing import Any

import pytest

from agenttune.protocol.proposals import Ack, Author, Change, CommandRecord, Proposal, State
from agenttune.trainer.probation.own_commands import inverse_of

pytestmark = pytest.mark.trainer


def taken_back(command: dict[str, Any], *before: tuple[str, Any]) -> dict[str, Any] | None:
    proposal = Proposal.model_validate({"command": command, "author": Author(principal="agent", name="x")})
    changes = [Change(name=name, previous=value, requested=None, effective=None) for name, value in before]
    ack = Ack(outcome="applied", step=1, changes=changes)
    inverse = inverse_of(CommandRecord(proposal=proposal, state=State.APPLIED, submitted_seq=1, ack=ack))
    return None if inverse is None else {"kind": inverse.kind, **inverse.arguments()}


MIX = {"kind": "update_dataset_runtime_hyperparameters", "values": {"weights": {"a": 1.0, "b": 0.0}}}
BLOCK = {"kind": "update_dataset", "values": {"block_tokens": 256}}
LAYER = {"kind": "model_layer_operation", "layer_name": "first"}
DROP = {"kind": "model_layer_parameter_update", "layer_name": "drop", "param_name": "p", "value": 0.5}


@pytest.mark.parametrize(
    ("command", "before", "inverse"),
    [
        (MIX, ("weights", {"a": 0.5, "b": 0.5}), {**MIX, "values": {"weights": {"a": 0.5, "b": 0.5}}}),
        (BLOCK, ("block_tokens", 128), {**BLOCK, "values": {"block_tokens": 128}}),
        (DROP, ("drop.p", 0.1), {**DROP, "value": 0.1}),
        (
            {**LAYER, "operation_name": "requires_grad_", "params": {"requires_grad": False}},
            ("first.requires_grad", True),
            {**LAYER, "operation_name": "requires_grad_", "params": {"requires_grad": True}},
        ),
        ({**LAYER, "operation_name": "requires_grad_"}, ("first.requires_grad", "mixed"), None),
        ({**LAYER, "operation_name": "reset_parameters"}, ("first.weight", 2.0), None),
    ],
)
def test_every_value_goes_back(
    command: dict[str, Any], before: tuple[str, Any], inverse: dict[str, Any] | None
) -> None:
    assert taken_back(command, before) == inverse
