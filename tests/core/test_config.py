"""A wrong config file is refused with file, line and key, and with the key that was meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from agenttune.config import Config, load_config
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
        missing = []
        for name, field in getattr(model, "model_fields", {}).items():
            if not field.description:
                missing.append(prefix + name)
            missing += undocumented(field.annotation, f"{prefix}{name}.") if isinstance(field.annotation, type) else []
        return missing

    assert undocumented(Config) == []
