"""The `trainer_state.json` that a transformers Trainer saves beside each checkpoint."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agenttune.errors import UserError
from agenttune.protocol.commands import COMMAND_KINDS
from agenttune.protocol.observation import Evaluation
from agenttune.replay.recordings.recording import Recording, rates_of
from agenttune.store.metric_table import MetricRow

STATE_NAME = "trainer_state.json"
CHECKPOINT = re.compile(r"checkpoint-(\d+)")
NON_FINITE = frozenset({"nan", "inf", "-inf", "infinity", "-infinity"})
"""Spellings of what JSON has no number for, as strings; Python's own writer writes NaN and Infinity bare."""


def find_state(folder: Path) -> Path | None:
    """The newest `trainer_state.json` of a Trainer's output folder: that of the most steps."""
    found = [folder / STATE_NAME, *folder.glob(f"checkpoint-*/{STATE_NAME}")]
    states = [path for path in found if path.is_file()]
    return max(states, key=lambda path: (_steps_of(path), path.parent == folder), default=None)


def _steps_of(path: Path) -> int:
    named = CHECKPOINT.fullmatch(path.parent.name)
    if named:
        return int(named.group(1))
    return int(_load(path).get("global_step") or 0)


def read_trainer_state(path: Path) -> Recording:
    """Read a Trainer's own record.

    Raises:
        UserError: Not such a file, or it ends in the middle.
    """
    state = _load(path)
    history = state.get("log_history")
    if not isinstance(history, list):
        raise UserError(f"{path}: there is no `log_history` in it, so it is not a Trainer's {STATE_NAME}")
    rows, evaluations, odd = _sorted_out(history)
    if not rows and not evaluations:
        raise UserError(
            f"{path}: its `log_history` holds no row with a step and a number; was the Trainer told not to log "
            "(logging_strategy)?"
        )
    max_steps = state.get("max_steps")
    return Recording(
        source="trainer_state",
        name=str(path),
        rows=rows,
        evaluations=evaluations,
        max_steps=max_steps if isinstance(max_steps, int) and max_steps > 0 else None,
        knobs=rates_of(rows),
        capabilities=list(COMMAND_KINDS),
        notes=_notes(rows, state, odd),
    )


def _load(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8 text, so it is not a Trainer's {STATE_NAME}") from None
    if not text.strip():
        raise UserError(f"{path}: the file is empty; take that of an older checkpoint")
    try:
        state = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        where = f" at line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise UserError(
            f"{path}: not valid JSON{where}: {error}; if it was cut short, take that of an older checkpoint"
        ) from None
    if not isinstance(state, dict):
        raise UserError(f"{path}: holds no JSON object, so it is not a Trainer's {STATE_NAME}")
    return state


def _sorted_out(history: list[Any]) -> tuple[list[MetricRow], list[Evaluation], int]:
    """Rows of training, evaluations, and the number of entries that are neither."""
    rows: list[MetricRow] = []
    evaluations: list[Evaluation] = []
    odd = 0
    for entry in history:
        step = entry.get("step") if isinstance(entry, dict) else None
        values = _numbers(entry) if isinstance(step, int) and step >= 0 else {}
        if not isinstance(step, int) or not values:
            odd += 1
        elif any(name.startswith("eval_") for name in values):
            evaluations.append(Evaluation(step=step, metrics=values))
        elif "train_runtime" not in values:  # the last row sums up the whole training
            rows.append(MetricRow(step, float(step), _with_rate(values), "log"))
    rows.sort(key=lambda row: row.step)
    evaluations.sort(key=lambda evaluation: evaluation.step)
    return rows, evaluations, odd


def _numbers(entry: Mapping[str, Any]) -> dict[str, float]:
    return {str(n): float(v) for n, v in entry.items() if n not in ("step", "epoch") and _is_number(v)}


def _is_number(value: Any) -> bool:
    if isinstance(value, str):
        return value.lower() in NON_FINITE
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _with_rate(values: dict[str, float]) -> dict[str, float]:
    return {**values, "lr": values["learning_rate"]} if "learning_rate" in values else values


def _notes(rows: list[MetricRow], state: Mapping[str, Any], odd: int) -> list[str]:
    notes = []
    steps = sorted({row.step for row in rows})
    if len(steps) > 1 and (apart := round((steps[-1] - steps[0]) / (len(steps) - 1))) > 1:
        notes.append(f"one row every {apart} steps: what happened in between is not in it")
    if rows and not any("lr" in row.values for row in rows):
        notes.append("no learning rate was recorded, so a policy that goes by it has nothing to go by")
    if odd:
        notes.append(f"{odd} entries of log_history have no step or no number and were left out")
    return notes
