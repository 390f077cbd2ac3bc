"""A model thinks of a change, not of commands: what it asks for at one step becomes the commands that make it."""

from __future__ import annotations

from typing import Any

import pytest

from agenttune.errors import CommandError
from agenttune.protocol.commands import CommandBase, Probe, parse_command
from tests.tools.conftest import MakeToolbox

WHY = "the loss rose from 1.2 to 9"


def made(toolbox: MakeToolbox, name: str, **asked: Any) -> list[CommandBase]:
    return list(toolbox().call(name, {"reason": WHY, **asked}).commands)


def of(**fields: Any) -> CommandBase:
    return parse_command(fields)


RATE = {"kind": "update_optimizer", "lr": 0.05}
BASE = {"kind": "update_optimizer", "lr": pytest.approx(0.03), "lr_sets": "base"}


@pytest.mark.parametrize(
    ("asked", "commands"),
    [
        ({"lr": 0.05}, [RATE]),
        ({"lr": 0.05, "weight_decay": 0.1, "param_group": 1}, [{**RATE, "weight_decay": 0.1, "param_group": 1}]),
        ({"lr_factor": 0.3}, [BASE]),
        (
            {"lr": 0.05, "schedule": {"shape": "cosine", "final_lr": 1e-4}},
            [{"kind": "update_schedule", "shape": "cosine", "peak_lr": 0.05, "final_lr": 1e-4}],
        ),
        (
            {"max_grad_norm": 0.5, "knobs": {"label_smoothing": 0.1}, "reset_layers": ["a.b", "c"], "lr": 0.05},
            [
                *(
                    {"kind": "model_layer_operation", "layer_name": name, "operation_name": "reset_parameters"}
                    for name in ("a.b", "c")
                ),
                RATE,
                {"kind": "update_training", "max_grad_norm": 0.5},
                {"kind": "set_knob", "name": "label_smoothing", "value": 0.1},
            ],
        ),
        (
            {"data": {"weights": {"wikitext": 0.5}}, "lr": None},
            [{"kind": "update_dataset_runtime_hyperparameters", "values": {"weights": {"wikitext": 0.5}}}],
        ),
    ],
)
def test_a_change_becomes_the_commands_that_make_it(
    toolbox: MakeToolbox, asked: dict[str, Any], commands: list[dict[str, Any]]
) -> None:
    got = [
        {"kind": c.kind, **c.model_dump(exclude={"kind"}, exclude_defaults=True)}
        for c in made(toolbox, "change", **asked)
    ]
    assert got == commands


def test_going_back_comes_first_and_has_the_new_rate(toolbox: MakeToolbox) -> None:
    back, *rest = made(toolbox, "change", lr_factor=0.1, go_back_to="before-the-cut", max_grad_norm=0.5)
    assert back.wanted_checkpoint() == "before-the-cut"
    told = {name: value for command in (back, *rest) for name, value in command.arguments().items()}
    assert told["lr"] == pytest.approx(0.01)
    assert told["max_grad_norm"] == 0.5


@pytest.mark.parametrize(
    ("name", "asked", "words"),
    [
        ("change", {}, "nothing to change; give at least one of go_back_to"),
        ("change", {"lr": 0.1, "lr_factor": 2.0}, "give lr or lr_factor, not both"),
        ("change", {"lr_factor": 0}, "a number above 0"),
        ("change", {"learning_rate": 0.1}, "learning_rate: not known here"),
        ("change", {"betas": [0.9, 0.99]}, "this run has no such thing to set"),
        ("change", {"lr": 50.0}, "outside"),
        ("change", {"go_back_to": "nope"}, "no checkpoint 'nope'"),
        ("change", {"knobs": {"nope": 1}}, "knobs: label_smoothing"),
        ("change", {"schedule": "cosine"}, "an object is wanted"),
        ("change", {"schedule": {"shape": "sawtooth"}}, "update_schedule.shape"),
        ("trial", {"arms": {"lr": 1}}, "a list of changes"),
        ("trial", {"arms": [{"reset_layers": ["x"]}]}, "reset_layers cannot be tried; use change"),
        ("trial", {"arms": [{"go_back_to": "x", "lr": 0.1}]}, "no checkpoint 'x'"),
        ("trial", {"arms": [{"go_back_to": "start", "lr": 0.1}, {"lr": 0.1}]}, "the same checkpoint, or none"),
        ("trial", {"arms": [{"go_back_to": "start", "max_grad_norm": 1.0}]}, "try them apart"),
        ("trial", {"arms": [{"go_back_to": "start", "skip_seen_data": True}]}, "skip_seen_data cannot be tried"),
        ("change", {"lr": 0.1, "skip_seen_data": True}, "goes with go_back_to only"),
        ("trial", {"arms": [{"lr": 0.1, "max_grad_norm": 1.0}]}, "try them apart"),
    ],
)
def test_what_is_wrong_with_a_change_is_said(
    toolbox: MakeToolbox, name: str, asked: dict[str, Any], words: str
) -> None:
    with pytest.raises(CommandError) as caught:
        made(toolbox, name, **asked)
    assert words in caught.value.message


def test_the_arms_of_a_trial_are_changes(toolbox: MakeToolbox) -> None:
    asked = {"arms": [{"lr_factor": 3.0}, {"max_grad_norm": 0.5}], "steps": 5, "metric": "goal"}
    [probe] = made(toolbox, "trial", **asked)
    assert isinstance(probe, Probe)
    assert [candidate.kind for candidate in probe.candidates] == ["update_optimizer", "update_training"]
    assert (probe.steps, probe.metric) == (5, "goal")
    arms = [
        {"go_back_to": "before-the-cut", "lr": 0.05},
        {"go_back_to": "before-the-cut", "lr_factor": 0.1, "reset_optimizer": True},
    ]
    [returns] = made(toolbox, "trial", arms=arms)
    assert isinstance(returns, Probe)
    assert {c.wanted_checkpoint() for c in returns.candidates} == {"before-the-cut"}
    assert [c.arguments()["lr"] for c in returns.candidates] == [0.05, pytest.approx(0.01)]
    assert returns.candidates[1].arguments()["reset_optimizer"] is True
    old = [{"kind": "update_optimizer", "lr": 0.05}]
    assert made(toolbox, "trial", arms=old) == made(toolbox, "probe", candidates=old)


@pytest.mark.parametrize(
    ("name", "kind"), [("evaluate", "do_evaluate"), ("save", "save_checkpoint"), ("stop", "stop_training")]
)
def test_a_command_has_a_short_name_and_is_understood_by_its_own(toolbox: MakeToolbox, name: str, kind: str) -> None:
    assert made(toolbox, name) == made(toolbox, kind) == [of(kind=kind)]
