"""The start of a round: bounds hold, and the script gets exactly the arguments that were chosen."""

from __future__ import annotations

from pathlib import Path

import pytest

from agenttune.config import RoundParameter
from agenttune.errors import ConfigError, UserError
from agenttune.launch.study.start import arguments_with, check_start, plan_schema, value_in
from tests.study.conftest import Lab

PARAMETERS = {
    "lr": RoundParameter(argument="--lr", minimum=1e-4, maximum=1.0),
    "batch": RoundParameter(argument="-b", minimum=1, maximum=64, type="int", description="samples a step"),
}


def test_what_stands_in_the_arguments_is_replaced_and_the_rest_kept() -> None:
    start = {"lr": 0.003, "batch": 8}
    assert arguments_with(["--lr", "0.1", "data", "-b=4"], start, PARAMETERS) == ["--lr", "0.003", "data", "-b=8"]
    assert arguments_with(["--lr=0.1", "--lr", "0.2"], {"lr": 1e-05}, PARAMETERS) == ["--lr=1e-05", "--lr", "1e-05"]
    assert arguments_with(["x"], start, PARAMETERS) == ["x", "--lr", "0.003", "-b", "8"]
    assert arguments_with(["--lr"], {"lr": 0.5}, PARAMETERS) == ["--lr", "0.5"]
    assert arguments_with(["--", "--lr", "0.1"], {"lr": 0.5}, PARAMETERS) == ["--lr", "0.5", "--", "--lr", "0.1"]
    assert arguments_with(["--lr", "0.1"], {}, PARAMETERS) == ["--lr", "0.1"]


def test_the_files_own_value_is_the_last_one_given() -> None:
    assert value_in(["--lr=0.1", "--lr", "0.2"], "--lr") == "0.2"
    assert value_in(["--", "--lr", "0.2"], "--lr") is None


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({"lr": 2, "batch": 8}, "lr: 2 is out of bounds; give a number from 0.0001 to 1.0"),
        ({"lr": 0.1, "batch": 8.5}, "batch: 8.5 is not a whole number; give a whole number from 1 to 64"),
        ({"lr": 0.1, "batch": True}, "batch: True is no number"),
        ({"lr": "0.1", "batch": 8}, "lr: '0.1' is no number"),
        ({"lr": float("inf"), "batch": 8}, "lr: inf is no number"),
        ({"lr": 10**400, "batch": 8}, "out of bounds"),
        ({"lr": 0.1}, "batch is missing; give exactly these: lr, batch"),
        ({"lr": 0.1, "batch": 8, "seed": 1}, "no parameter 'seed'"),
        ([0.1], "start must be an object"),
    ],
)
def test_a_start_outside_the_bounds_is_refused_with_what_is_allowed(raw: object, said: str) -> None:
    with pytest.raises(UserError, match=r".") as caught:
        check_start(raw, PARAMETERS)
    assert said in str(caught.value)


def test_whole_floats_are_ints_and_ints_are_floats_where_those_are_asked_for() -> None:
    start = check_start({"lr": 1, "batch": 8.0}, PARAMETERS)
    assert {name: repr(value) for name, value in start.items()} == {"lr": "1.0", "batch": "8"}


def test_the_schema_has_the_bounds() -> None:
    schema = plan_schema(PARAMETERS)["properties"]["start"]
    assert schema["properties"]["batch"] == {
        "type": "integer",
        "description": "-b: samples a step",
        "minimum": 1,
        "maximum": 64,
    }
    assert schema["required"] == ["lr", "batch"]
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ("{b: {argument: -b, minimum: 0.5, maximum: 4, type: int}}", "must be whole numbers"),
        (
            "{a: {argument: --lr, minimum: 0, maximum: 1}, b: {argument: --lr, minimum: 0, maximum: 1}}",
            "two parameters",
        ),
    ],
)
def test_parameters_that_cannot_work_are_found_at_once(lab: Lab, parameters: str, said: str) -> None:
    lab.write(f"rounds: {{count: 1, parameters: {parameters}}}\n")
    with pytest.raises(ConfigError, match=said):
        _ = lab.plan


def test_a_reference_that_does_not_exist_is_found_at_once(lab: Lab, tmp_path: Path) -> None:
    lab.write("rounds: {count: 1, references: [guardien]}\n")
    with pytest.raises(ConfigError, match="guardien"):
        _ = lab.plan
