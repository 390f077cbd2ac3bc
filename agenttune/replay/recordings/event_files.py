"""TensorBoard's event files, read with TensorBoard's own reader."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agenttune.errors import UserError
from agenttune.protocol.commands import COMMAND_KINDS
from agenttune.protocol.observation import Evaluation
from agenttune.protocol.text import some
from agenttune.replay.recordings.recording import Recording, rates_of
from agenttune.store.metric_table import MetricRow

FILE_PATTERN = "*tfevents*"
INSTALL = "pip install 'agenttune-toolkit[tensorboard]'"
TRAINING: dict[str, tuple[str, ...]] = {
    "loss": ("train/loss", "loss", "loss/train", "train_loss", "training_loss", "train/loss_step", "train_loss_step"),
    "lr": ("train/learning_rate", "learning_rate", "train/lr", "lr", "lr/train"),
    "grad_norm": ("train/grad_norm", "grad_norm", "train/gradient_norm", "gradient_norm"),
}
"""What a policy reads -> the tags under which it is usually found, compared without case; the first found is taken."""
EVALUATION_PREFIXES = ("eval/", "eval_", "val/", "val_", "validation/", "valid/", "test/")
EVALUATION_SUFFIXES = ("/eval", "/val", "/validation", "/valid", "/test")

logger = logging.getLogger(__name__)

Series = list[tuple[int, float, float]]
"""Of one tag: step, value, unix time in seconds."""


def find_event_folder(folder: Path) -> Path | None:
    """The folder with event files in or below `folder`; None if there is none.

    Raises:
        UserError: There are several; lists them.
    """
    folders = sorted({path.parent for path in folder.rglob(FILE_PATTERN) if path.is_file()})
    if len(folders) > 1:
        newest = sorted(folders, key=lambda path: path.stat().st_mtime, reverse=True)[:10]
        raise UserError(
            f"{folder} holds the event files of {len(folders)} runs; give one of: {', '.join(map(str, newest))}",
            field="run",
            allowed=[str(path) for path in newest],
        )
    return folders[0] if folders else None


def read_events(path: Path, names: Mapping[str, str] | None = None) -> Recording:
    """Read the scalars of an event file, or of all event files of a folder.

    Args:
        path: The file or the folder.
        names: Tags to take for `loss`, `lr`, `grad_norm` or any other name, where they have unusual ones.

    Raises:
        UserError: TensorBoard is not installed; there are no scalars in it, or no training loss among them.
    """
    tags = _scalars(path)
    if not tags:
        raise UserError(f"{path}: no scalars could be read from it; it is no event file, or none with scalars in it")
    chosen = _choose(path, tags, names or {})
    notes: list[str] = []
    rows = _rows({name: _one_way(tags[tag], tag, notes) for name, tag in chosen.items()})
    evaluations = _evaluations({tag: _one_way(tags[tag], tag, notes) for tag in tags if tag not in chosen.values()})
    if "lr" not in chosen:
        notes.append("no learning rate was recorded, so a policy that goes by it has nothing to go by")
    return Recording(
        source="tensorboard",
        name=str(path),
        rows=rows,
        evaluations=evaluations,
        knobs=rates_of(rows),
        capabilities=list(COMMAND_KINDS),
        notes=[f"taken for {', '.join(f'{name}: {tag}' for name, tag in sorted(chosen.items()))}", *notes],
    )


def _scalars(path: Path) -> dict[str, Series]:
    try:
        from google.protobuf.message import DecodeError
        from tensorboard.backend.event_processing import event_accumulator as reader
        from tensorboard.util import tensor_util
    except ImportError as error:
        raise UserError(f"{path}: to read event files, install TensorBoard: {INSTALL} ({error})") from None
    accumulator = reader.EventAccumulator(str(path), size_guidance={reader.SCALARS: 0, reader.TENSORS: 0})
    try:
        accumulator.Reload()
    except (DecodeError, OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as an event file: {error}") from None
    found = {
        tag: [(e.step, e.value, e.wall_time) for e in accumulator.Scalars(tag)] for tag in accumulator.scalars.Keys()
    }
    for tag in accumulator.tensors.Keys():  # where TensorFlow 2 puts scalars
        events = [(e, tensor_util.make_ndarray(e.tensor_proto)) for e in accumulator.Tensors(tag)]
        found |= {tag: [(e.step, float(v), e.wall_time) for e, v in events]} if _are_numbers(events) else {}
    return found


def _are_numbers(events: Sequence[tuple[Any, Any]]) -> bool:
    return all(value.size == 1 and value.dtype.kind in "fiu" for _, value in events)


def _choose(path: Path, tags: Mapping[str, Series], names: Mapping[str, str]) -> dict[str, str]:
    """Which tag is taken for which name."""
    for name, tag in names.items():
        if tag not in tags:
            raise UserError(
                f"{path}: no tag {tag!r} for {name}; there are: {some(sorted(tags), 20)}", allowed=sorted(tags)
            )
    by_lower = {tag.lower(): tag for tag in sorted(tags, reverse=True)}
    usual = {n: next((by_lower[a] for a in aliases if a in by_lower), None) for n, aliases in TRAINING.items()}
    chosen = {**{name: tag for name, tag in usual.items() if tag is not None}, **names}
    if "loss" not in chosen:
        raise UserError(
            f"{path}: none of its tags is known to be a training loss; name it with --tag loss=TAG. "
            f"There are: {some(sorted(tags), 20)}",
            field="tag",
            allowed=sorted(tags),
        )
    return chosen


def _one_way(series: Series, tag: str, notes: list[str]) -> Series:
    """Where a training was started again from an earlier step, what was written later counts."""
    kept: Series = []
    dropped = 0
    for entry in series:
        while kept and kept[-1][0] >= entry[0]:
            kept.pop()
            dropped += 1
        kept.append(entry)
    if dropped:
        notes.append(f"{tag}: {dropped} values were written again later; the later ones count")
    return kept


def _rows(chosen: Mapping[str, Series]) -> list[MetricRow]:
    values: dict[int, dict[str, float]] = {}
    at_s: dict[int, float] = {}
    for name, series in chosen.items():
        for step, value, wall_s in series:
            values.setdefault(step, {})[name] = value
            at_s[step] = max(wall_s, at_s.get(step, wall_s))
    return [MetricRow(step, at_s[step], values[step], "log") for step in sorted(values)]


def _evaluations(others: Mapping[str, Series]) -> list[Evaluation]:
    metrics: dict[int, dict[str, float]] = {}
    for tag, series in others.items():
        name = _evaluated_as(tag)
        for step, value, _ in series if name else ():
            metrics.setdefault(step, {})[name] = value
    return [Evaluation(step=step, metrics=metrics[step]) for step in sorted(metrics)]


def _evaluated_as(tag: str) -> str:
    """Such as `eval_loss` for `eval/loss`, `val_loss` or `Loss/test`; empty for what is no evaluation."""
    lower = tag.lower()
    for prefix in EVALUATION_PREFIXES:
        if lower.startswith(prefix):
            return f"eval_{lower[len(prefix) :].replace('/', '_')}"
    for suffix in EVALUATION_SUFFIXES:
        if lower.endswith(suffix):
            return f"eval_{lower[: -len(suffix)].replace('/', '_')}"
    return ""
