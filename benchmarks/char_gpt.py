"""Trainings of `examples/char_gpt.py`, each a process of its own: by itself, or with `agenttune run` and a policy."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "examples" / "char_gpt.py"
FAR_TOO_LOW, GOOD, FAR_TOO_HIGH = 1e-4, 0.003, 0.1
"""Learning rates of the example, AdamW, constant (chosen by a sweep; 0.003 is the best of it)."""


def train_alone(lr: float, seed: int, steps: int, folder: Path) -> float:
    """The final evaluation loss in nats a character, with the plain Trainer."""
    command = [sys.executable, str(SCRIPT), *_arguments(lr, seed, steps, folder), "--plain"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(re.findall(r"final evaluation loss: ([0-9.a-z]+)", done.stdout)[-1])


def train_under(
    policy: str, lr: float, seed: int, steps: int, folder: Path, **settings: Any
) -> tuple[float, dict[str, Any]]:
    """The final evaluation loss in nats a character, and the run's summary.

    Args:
        policy: Its name or path.
        lr: Learning rate to begin with.
        seed: Of weights and data.
        steps: How long it is.
        folder: For the run and what it writes.
        settings: More of `config.yaml`.
    """
    config = {
        "run": {"script": str(SCRIPT), "args": _arguments(lr, seed, steps, folder / "out")},
        "policy": policy,
        "server": {"port": 0},
        "store": {"runs_dir": str(folder / "runs")},
        **settings,
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    agenttune = [sys.executable, "-m", "agenttune"]
    subprocess.run([*agenttune, "run", str(path)], check=True, capture_output=True)
    report = [*agenttune, "report", "--json", "--runs-dir", str(folder / "runs")]
    summary = json.loads(subprocess.run(report, check=True, capture_output=True, text=True).stdout)
    return float(summary["score"]["last"]["value"]), summary


def _arguments(lr: float, seed: int, steps: int, out: Path) -> list[str]:
    return ["--lr", str(lr), "--seed", str(seed), "--steps", str(steps), "--out", str(out)]
