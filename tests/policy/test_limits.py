"""A policy file brings limits of its own, and the config file has the last word on each."""

from __future__ import annotations

from pathlib import Path

import pytest

from agenttune.errors import ConfigError
from agenttune.launch import make_plan

TRAIN = "run: {script: train.py}\npolicy: mine.yaml\n"


def write(folder: Path, policy: str, config: str = "") -> Path:
    (folder / "train.py").write_text("", encoding="utf-8")
    (folder / "mine.yaml").write_text(policy, encoding="utf-8")
    (folder / "config.yaml").write_text(TRAIN + config, encoding="utf-8")
    return folder / "config.yaml"


def test_what_the_config_file_leaves_open_the_policy_file_sets(tmp_path: Path) -> None:
    policy = "type: noop\ngate: {cooldown_steps: 50, forbid: [stop_training], max_change_factor: 3}\n"
    gate = make_plan(write(tmp_path, policy, "gate: {cooldown_steps: 7}\n")).config.gate
    assert (gate.cooldown_steps, gate.forbid, gate.max_change_factor) == (7, ["stop_training"], 3)


def test_a_wrong_limit_is_told_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"mine\.yaml:3: gate\.cooldown_step: unknown key"):
        make_plan(write(tmp_path, "type: noop\ngate:\n  cooldown_step: 50\n"))


def test_a_part_of_a_policy_sets_no_limits(tmp_path: Path) -> None:
    policy = "type: escalation\npolicies:\n  - guardian\n  - {type: noop, gate: {cooldown_steps: 50}}\n"
    with pytest.raises(ConfigError, match=r"mine\.yaml:4: .*gate: a part of another policy cannot set limits"):
        make_plan(write(tmp_path, policy))
