"""A command that is wrong is refused with the field, what is allowed there, and nothing else happens."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttune.errors import CommandError
from agenttune.protocol.commands import (
    BY_KIND,
    COMMAND_KINDS,
    COMMAND_TYPES,
    CommandBase,
    parse_command,
    recorded_words,
)
from agenttune.protocol.text import MOST_NESTED, number

V1_COMMANDS = {
    "update_optimizer",
    "save_checkpoint",
    "load_checkpoint",
    "pause_training",
    "resume_training",
    "stop_training",
    "do_evaluate",
    "update_dataset",
    "update_dataset_runtime_hyperparameters",
    "model_layer_operation",
    "model_layer_parameter_update",
}
OURS = {
    "update_checkpoint",
    "delete_checkpoints",
    "set_knob",
    "update_schedule",
    "update_training",
    "add_note",
    "read_model",
    "probe",
}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def test_the_list_is_complete() -> None:
    assert set(COMMAND_KINDS) == V1_COMMANDS | OURS


def test_every_command_says_what_it_does_and_how_risky_it_is() -> None:
    for command in COMMAND_TYPES:
        assert command.__doc__
        assert command.risk.value in {"observe", "tune", "disrupt", "danger"}


def test_the_seeds_own_documented_example_is_accepted() -> None:
    command = parse_command({"kind": "update_optimizer", "lr": 1e-4, "weight_decay": 0.01})
    assert command.arguments() == {"lr": 1e-4, "lr_sets": "effective", "weight_decay": 0.01, "other": {}}


@pytest.mark.parametrize(
    ("raw", "field", "words"),
    [
        ({"kind": "update_optimizer", "lr": "3e-4"}, "lr", ["valid number", "'3e-4'"]),
        ({"kind": "update_optimizer", "lr": True}, "lr", ["valid number"]),
        ({"kind": "update_optimizer", "lr": float("nan")}, "lr", ["finite"]),
        ({"kind": "update_optimizer", "lr": float("inf")}, "lr", ["inf"]),
        ({"kind": "update_optimizer", "lr": -1.0}, "lr", ["greater than or equal to 0"]),
        ({"kind": "update_optimizer", "lr": 1e9}, "lr", ["less than or equal to 100"]),
        ({"kind": "update_optimizer", "lrr": 1.0}, "lrr", ["allowed: lr,"]),
        ({"kind": "update_optimizer", "betas": [0.9]}, "betas.1", ["required"]),
        ({"kind": "update_optimizer", "betas": [2.0, -1.0]}, "betas.0", ["less than 1"]),
        ({"kind": "update_optimizer", "other": {"rho": float("nan")}}, "other.rho", ["finite"]),
        ({"kind": "update_optimizer"}, None, ["nothing to change", "lr"]),
        ({"kind": "update_optimizer", "lr_sets": "base"}, None, ["nothing to change"]),
        ({"kind": "update_schedule", "shape": "spiral"}, "shape", ["'constant'"]),
        ({"kind": "update_schedule", "shape": "linear", "decay_steps": 5}, None, ["wsd"]),
        ({"kind": "update_training", "max_steps": 1.5}, "max_steps", ["integer"]),
        ({"kind": "update_training", "max_steps": 2**63 - 1}, "max_steps", ["1000000000", str(2**63 - 1)]),
        ({"kind": "update_schedule", "shape": "linear", "end_step": 2**62}, "end_step", ["1000000000"]),
        ({"kind": "update_schedule", "shape": "linear", "warmup_steps": 10**10}, "warmup_steps", ["1000000000"]),
        ({"kind": "update_schedule", "shape": "wsd", "decay_steps": 10**10}, "decay_steps", ["1000000000"]),
        ({"kind": "update_optimizer", "lr": 1.0, "param_group": 2**62}, "param_group", ["10000"]),
        ({"kind": "update_dataset", "values": {"limit": [2**70]}}, "values.limit", [str(2**53)]),
        ({"kind": "save_checkpoint", "tag": "../../evil"}, "tag", ["pattern"]),
        ({"kind": "load_checkpoint", "checkpoint_id": "x", "branch_name": "../x"}, "branch_name", ["pattern"]),
        ({"kind": "set_knob", "name": "x"}, "value", ["required"]),
        ({"kind": "probe", "candidates": []}, "candidates", ["at least 1"]),
        ({"kind": "probe", "candidates": [{"kind": "stop_training"}]}, "candidates.0", ["'update_optimizer'"]),
        (
            {"kind": "probe", "candidates": [{"kind": "update_optimizer", "lr": -1.0}]},
            "candidates.0.lr",
            ["equal to 0"],
        ),
        ({"kind": "probe", "candidates": [{"kind": "update_training", "max_steps": 9}]}, None, ["cannot be tried"]),
        ({"kind": "probe", "candidates": [{"kind": "set_knob", "name": "a", "value": 1}] * 2}, None, ["twice"]),
        ({"kind": "update_dataset", "values": {}}, "values", ["at least 1"]),
        ({"kind": "add_note", "text": ""}, "text", ["at least 1"]),
        ({"kind": "lower_the_rate"}, "kind", ["unknown command", "update_optimizer"]),
        ({}, "kind", ["unknown command None"]),
        ([1], "command", ["JSON object"]),
    ],
)
def test_bad_input_is_named(raw: object, field: str | None, words: list[str]) -> None:
    with pytest.raises(CommandError) as caught:
        parse_command(raw)
    assert caught.value.field == field
    for word in words:
        assert word in str(caught.value)


def test_the_error_says_what_would_be_allowed() -> None:
    with pytest.raises(CommandError) as caught:
        parse_command({"kind": "update_optimizer", "lr": -1.0})
    assert caught.value.allowed == {"maximum": 100, "minimum": 0, "type": "number"}
    with pytest.raises(CommandError) as caught:
        parse_command({"kind": "update_schedule", "shape": "spiral"})
    assert caught.value.allowed == ["constant", "linear", "cosine", "wsd", "previous"]


@given(kind=st.sampled_from(list(COMMAND_KINDS)), body=st.dictionaries(st.text(max_size=12), json_values, max_size=4))
def test_no_json_gets_past_as_anything_but_a_command_or_its_error(kind: str, body: dict[str, Any]) -> None:
    try:
        command = parse_command({**body, "kind": kind})
    except CommandError:
        return
    assert type(command) is BY_KIND[kind]
    assert parse_command(json.loads(command.model_dump_json())) == command


@given(
    kind=st.sampled_from(list(COMMAND_KINDS)),
    field=st.sampled_from(sorted({name for t in COMMAND_TYPES for name in t.model_fields} - {"kind"})),
    bad=st.sampled_from([float("nan"), float("inf"), -float("inf")]),
)
def test_non_finite_numbers_pass_nowhere(kind: str, field: str, bad: float) -> None:
    for value in (bad, [bad], {"x": bad}, {"x": [bad]}):
        with pytest.raises(CommandError):
            parse_command({"kind": kind, field: value})


def _with_nulls(command: dict[str, Any]) -> dict[str, Any]:
    """A command as many models write it: every option that is not needed is null."""
    fields = BY_KIND[command["kind"]].model_fields
    nulls = {name: None for name, field in fields.items() if not field.is_required()}
    candidates = {"candidates": [_with_nulls(one) for one in command["candidates"]]} if "candidates" in command else {}
    return {**nulls, **command, **candidates}


@pytest.mark.parametrize("kind", COMMAND_KINDS)
def test_null_for_an_option_is_the_same_as_leaving_it_out(kind: str) -> None:
    """In every command, so at every door: tools, MCP, REST; and in the candidates of a probe."""
    example = BY_KIND[kind].example
    assert parse_command(_with_nulls(example)) == parse_command(example)


def test_null_where_it_means_something_or_is_wrong_stays_null() -> None:
    kept = parse_command({"kind": "update_optimizer", "other": {"foreach": None}})
    assert kept.arguments() == {"lr_sets": "effective", "other": {"foreach": None}}
    free = {"kind": "update_dataset", "values": {"limit": None}}
    assert parse_command(free).model_dump()["values"] == {"limit": None}
    for wrong in (
        {"kind": "set_knob", "name": "a", "value": None},
        {"kind": "update_optimizer", "lr": None},
        {"kind": "update_optimizer", "lr": 0.1, "learning_rate": None},
    ):
        with pytest.raises(CommandError):
            parse_command(wrong)


def test_a_command_within_a_command_is_told_in_words() -> None:
    """A person who approves a probe reads its candidates, whole; no braces, and no number rounded to another."""
    rates = [{"kind": "update_optimizer", "lr": lr, "betas": [0.9, 0.99999]} for lr in (1e-4, 3.3333333e-4)]
    probe = parse_command({"kind": "probe", "candidates": rates, "steps": 5})
    told = probe.words
    assert "update_optimizer lr 0.0001, betas [0.9, 0.99999], update_optimizer lr 0.000333333, betas" in told
    assert not set("{}'") & set(told)


@given(
    value=st.recursive(
        st.none() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_any_value_is_told_in_one_bounded_line(value: object) -> None:
    told = number(value)
    assert len(told) <= MOST_NESTED
    assert "\n" not in told


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"kind": "update_schedule", "shape": "previous"}, "update_schedule shape previous"),
        (
            {"kind": "update_schedule", "shape": "linear", "peak_lr": 0.01, "final_lr": 0.001},
            "update_schedule shape linear, peak_lr 0.01, final_lr 0.001",
        ),
        ({"kind": "update_optimizer", "lr": 0.0, "lr_sets": "base"}, "update_optimizer lr 0, lr_sets base"),
        ({"kind": "do_evaluate"}, "do_evaluate"),
        (
            {"kind": "probe", "steps": 5, "candidates": [{"kind": "update_schedule", "shape": "previous"}]},
            "probe candidates [update_schedule shape previous], steps 5",
        ),
    ],
)
def test_a_command_in_words_says_what_was_asked_for(raw: dict[str, Any], words: str) -> None:
    """Seen before: `update_schedule shape previous, final_lr 0, warmup_steps 0`."""
    command = parse_command(raw)
    assert command.words == words
    recorded = command.model_dump(mode="json")
    assert recorded_words(recorded) == words
    assert recorded_words({"kind": "of_another_version", "lr": 0.1}) == "of_another_version lr 0.1"


@pytest.mark.parametrize("kind", COMMAND_TYPES)
def test_what_tells_something_of_a_command_makes_it_again(kind: type[CommandBase]) -> None:
    command = parse_command(kind.example)
    assert parse_command({"kind": command.kind, **command.telling()}) == command
