"""The first config file of a project: its script is found, and no more is written than a newcomer reads."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

HEAD = """\
# What `agenttune run` runs, and what counts as good. `agenttune check` looks it over without running anything;
# `agenttune init --full` writes every key, with its meaning and default.
"""
OPEN = re.compile(
    r"\bmake_interactive\b|\bInteractiveCallback\b|\bLightningCallback\b|\bagenttune\.(session|autopatch)\b"
)
"""What opens a training to an agent."""
TRAINER = re.compile(r"\b\w*Trainer\(|\bimport .*\bTrainer\b")
EVALUATES = re.compile(r"\beval_(dataset|strategy|steps)\b|\bevaluation_strategy\b")
SKIPPED = frozenset({"runs", "tests", "site-packages", "node_modules", "build", "dist"})
MAX_DEPTH = 2
"""Folders below the config file's that are looked through (guess: deeper lie libraries, not scripts)."""
MAX_BYTES = 1_000_000

EXAMPLE_NAME = "train.py"
EXAMPLE_SCRIPT = """\
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, set_seed

from agenttune import make_interactive

set_seed(0)
data = [{"input_ids": (ids := [(i + 3 * k) % 50 for k in range(32)]), "labels": ids} for i in range(500)]
model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=32, n_embd=64, n_layer=2, n_head=2))
rate = {"learning_rate": 0.3, "weight_decay": 1, "lr_scheduler_type": "constant"}
args = TrainingArguments("out", **rate, max_steps=600, eval_strategy="steps", eval_steps=100)
make_interactive(Trainer)(model=model, args=args, train_dataset=data, eval_dataset=data[:64]).train()
"""
"""Trains a tiny GPT-2 on sequences that count in threes, in about half a minute, at a rate that is far too high.

Left alone it stays where it starts (the rate is constant). It can be rescued whenever the cut comes: the task is easy,
and strong weight decay lets weights shrink again that the rate has blown up. The README has what was measured.
"""


@dataclass(frozen=True)
class FoundScript:
    """A training script that was found.

    Attributes:
        name: Its path from the config file's folder.
        is_open: Whether it opens its training to an agent.
        evaluates: Whether it seems to evaluate.
    """

    name: str
    is_open: bool
    evaluates: bool


def find_scripts(folder: Path) -> list[FoundScript]:
    """The training scripts in and below a folder: those that are open to an agent, else those with a plain Trainer."""
    found = [script for path in _python_files(folder) if (script := read_script(path, folder)) is not None]
    return [script for script in found if script.is_open] or found


def read_script(path: Path, folder: Path) -> FoundScript | None:
    """What a file is, told by its text; None if it does not look like a training.

    Args:
        path: The file.
        folder: Of the config file.
    """
    try:
        text = path.read_bytes()[:MAX_BYTES].decode("utf-8", errors="replace")
    except OSError:
        return None  # not readable, so not runnable
    code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    if not (OPEN.search(code) or TRAINER.search(code)):
        return None
    name = Path(os.path.relpath(path, folder)).as_posix()
    return FoundScript(name, bool(OPEN.search(code)), bool(EVALUATES.search(code)))


def _python_files(folder: Path) -> Iterator[Path]:
    for where, folders, files in os.walk(folder):
        depth = len(Path(where).relative_to(folder).parts)
        inside = [name for name in folders if _is_looked_through(Path(where) / name)]
        folders[:] = sorted(inside) if depth < MAX_DEPTH else []
        yield from (Path(where) / name for name in sorted(files) if name.endswith(".py"))


def _is_looked_through(folder: Path) -> bool:
    name = folder.name
    return not name.startswith((".", "_")) and name not in SKIPPED and not (folder / "pyvenv.cfg").exists()


def first_values(script: FoundScript) -> dict[str, Any]:
    """What the first config file of a script sets, nested as in the file."""
    # Without an evaluation there is nothing better to go by than the training loss, which is always logged.
    metric = "eval_loss" if script.evaluates else "loss"
    return {"run": {"script": script.name}, "goal": {"metric": metric, "direction": "minimize"}}


def first_config(script: FoundScript) -> str:
    """The text of the first config file of a script."""
    return HEAD + yaml.safe_dump(first_values(script), sort_keys=False, allow_unicode=True, width=1000)
