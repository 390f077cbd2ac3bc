"""The commands' outward shapes are derived, so they cannot drift from the commands."""

from __future__ import annotations

from agenttune.protocol.command_schemas import command_table, schemas_by_kind
from agenttune.protocol.commands import COMMAND_KINDS, CommandBase, parse_command


def test_every_command_has_a_surface_with_its_fields() -> None:
    assert list(schemas_by_kind()) == list(COMMAND_KINDS)
    for surface in schemas_by_kind().values():
        assert surface.description
        assert [f.name for f in surface.fields] == [
            name for name in type(parse_command_example(surface.kind)).model_fields if name != "kind"
        ]


def parse_command_example(kind: str) -> CommandBase:
    examples: dict[str, dict[str, object]] = {
        "update_optimizer": {"lr": 0.1},
        "update_schedule": {"shape": "linear"},
        "update_training": {"max_steps": 5},
        "set_knob": {"name": "a", "value": 1},
        "load_checkpoint": {"checkpoint_id": "a"},
        "update_checkpoint": {"checkpoint_id": "a", "pin": True},
        "delete_checkpoints": {"keep_last": 1},
        "update_dataset": {"values": {"a": 1}},
        "update_dataset_runtime_hyperparameters": {"values": {"a": 1}},
        "model_layer_operation": {"layer_name": "a", "operation_name": "b"},
        "model_layer_parameter_update": {"layer_name": "a", "param_name": "p", "value": 0.1},
        "add_note": {"text": "a"},
        "probe": {"candidates": [{"kind": "update_optimizer", "lr": 0.1}]},
    }
    return parse_command({"kind": kind, **examples.get(kind, {})})


def test_the_table_has_a_row_for_every_command_and_says_the_bounds() -> None:
    lines = command_table().splitlines()
    assert len(lines) == 2 + len(COMMAND_KINDS)
    assert "`lr`?: number >= 0 <= 100" in command_table()
    assert '"constant", "linear", "cosine", "wsd"' in command_table()
    assert all(line.count(" | ") == 3 for line in lines[2:])
