"""A wrong config file is refused with file, line and key, and with the key that was meant."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from agenttune.config import Config, load_config
from agenttune.config.setting import documentation
from agenttune.errors import ConfigError

GOOD = "run:\n  script: train.py\n  args: [--lr, 0.1, --steps, 5]\n"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_smallest_config(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, GOOD))
    assert config.run.args == ["--lr", "0.1", "--steps", "5"]
    assert config.policy == "default"
    assert config.server.port is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD + "wakee:\n  every_steps: 3\n", [":4: wakee: unknown key", "did you mean 'wake'"]),
        (GOOD + "wake:\n  every_step: 3\n", [":5: wake.every_step: unknown key", "did you mean 'every_steps'"]),
        (GOOD + "wake:\n  every_steps: 0\n", [":5: wake.every_steps", "greater than or equal to 1", "got 0"]),
        (GOOD + f"wake:\n  every_steps: {10**30}\n", [":5: wake.every_steps", "9007199254740992"]),
        (GOOD + f"wake:\n  every_steps: {'9' * 5000}\n", ["not valid YAML"]),
        (GOOD + "goal:\n  direction: up\n", [":5: goal.direction", "'minimize' or 'maximize'"]),
        (GOOD + "gate:\n  bounds:\n    lr: [1.0, 0.1]\n", [":6: gate.bounds.lr", "minimum 1.0 is above"]),
        (GOOD + "gate:\n  forbid: [stop_trainin]\n", [":5: gate.forbid", "did you mean 'stop_training'"]),
        (GOOD + "probation:\n  metric: eval_loss\n", [":4: probation", "set evaluations to how many"]),
        (GOOD + "probation: {metric: f1, evaluations: 2}\n", ["'f1' is not the goal's", "probation.direction"]),
        (GOOD + "wake:\n  poll_s: .nan\n", [":5: wake.poll_s", "got nan"]),
        (GOOD + "run:\n  script: other.py\n", [":4: run: this key stands here twice"]),
        ("goal: {}\n", [": run: this key is required"]),
        ("run: {}\n", [":1: run", "give either 'script' or 'module'"]),
        ("run: [\n", ["not valid YAML"]),
        ("run: !!python/object:os.system {}\n", ["not valid YAML"]),
        ("run: {script: \x07}\n", ["not valid YAML"]),
        ("just text\n", [":1: (top level)"]),
        ("", [": run: this key is required"]),
    ],
)
def test_mistakes_are_located_and_explained(tmp_path: Path, text: str, words: list[str]) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value).startswith(str(path))
    for word in words:
        assert word in str(caught.value)


def test_a_missing_or_binary_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_config(tmp_path / "b.yaml")


def test_every_key_is_documented() -> None:
    def undocumented(model: type, prefix: str = "") -> list[str]:
        if not issubclass(model, BaseModel):
            return []
        missing = [prefix + name for name in model.model_fields if not documentation(model).get(name)]
        for name, field in model.model_fields.items():
            missing += undocumented(field.annotation, f"{prefix}{name}.") if isinstance(field.annotation, type) else []
        return missing

    assert undocumented(Config) == []


# -- what a file says reaches its reader -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "scalar",
    ["true", "True", "yes", "on", "1e-4", "0.10", "007", "1_000", "null", "~", "2024-01-01", "12:30", "3", "--x"],
)
def test_an_argument_and_a_variable_reach_the_script_as_they_are_written(tmp_path: Path, scalar: str) -> None:
    text = f"run:\n  script: train.py\n  args: [--spy, {scalar}]\n  env: {{A: {scalar}}}\n"
    run = load_config(write(tmp_path, text)).run
    assert (run.args, run.env) == (["--spy", scalar], {"A": scalar})


def test_arguments_of_an_anchor_are_as_written_too(tmp_path: Path) -> None:
    text = "run: {script: train.py, args: &a [--spy, true], env: {A: }}\ngoal: {constraints: *a, metric: 404}\n"
    config = load_config(write(tmp_path, text))
    assert (config.run.args, config.goal.constraints) == (["--spy", "true"], ["--spy", "true"])
    assert (config.run.env, config.goal.metric) == ({"A": ""}, "404")


def test_a_section_whose_keys_are_all_commented_out_has_its_defaults(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, GOOD + "wake:\n  # every_steps: 3\n")).wake.every_steps == 20


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "run: {script: a.py, nmae: x}\ngaol: {}\nwake:\n  poll_s: fast\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    places = [line.removeprefix(f"{path}:").split(": ")[:2] for line in str(caught.value).splitlines()]
    assert places == [["1", "run.nmae"], ["2", "gaol"], ["4", "wake.poll_s"]]


@pytest.mark.parametrize("count", [9, 100, 101, 250])
def test_whoever_mends_a_file_is_told_every_mistake_in_it(tmp_path: Path, count: int) -> None:
    path = write(tmp_path, GOOD + "gate:\n" + "".join(f"  wrong_{i}: 1\n" for i in range(count)))
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    lines = str(caught.value).splitlines()
    told = [line for line in lines if "unknown key" in line]
    first = GOOD.count("\n") + 2
    assert [line.partition(": unknown")[0] for line in told] == [
        f"{path}:{first + i}: gate.wrong_{i}" for i in range(min(count, 100))
    ]
    assert lines[len(told) :] == ([] if count <= 100 else [f"{path}: and {count - 100} more of {count}"])


def test_a_key_under_a_wrong_name_is_told_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, GOOD + "gate: {approval: [{approver: [human]}]}\n"))
    assert "did you mean 'approvers'?" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


LIBRARY_WORDS = (
    "Input should",
    "valid dictionary",
    "instance of",
    "not permitted",
    "should have",
    "validation",
    "parse string",
)
WRONG = [
    "[]",
    "{}",
    "''",
    "nonsense",
    "-1",
    "1e400",
    ".nan",
    "true",
    "[[1]]",
    "{a: {b: c}}",
    "[a, {b: 1}]",
    "2024-01-01",
    "",
]


def keys_of(model: type, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    fields = getattr(model, "model_fields", {})
    inside = [key for name, field in fields.items() for key in keys_of(field.annotation, (*prefix, name))]
    return [*([prefix] if prefix else []), *inside]


@pytest.mark.parametrize("key", keys_of(Config), ids=".".join)
def test_no_wrong_value_is_explained_in_words_of_the_library(tmp_path: Path, key: tuple[str, ...]) -> None:
    for value in WRONG:
        nested = "".join(f"{'  ' * depth}{part}:\n" for depth, part in enumerate(key)).rstrip("\n") + f" {value}\n"
        try:
            load_config(write(tmp_path, nested if key[0] == "run" else GOOD + nested))
        except ConfigError as error:
            said = str(error).removeprefix(str(tmp_path))
            assert ".".join(key[:1]) in said or "(top level)" in said
            assert not [words for words in LIBRARY_WORDS if words in said], said
