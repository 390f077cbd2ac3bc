"""Results of tools: JSON of bounded size, in which text of logs, layers and datasets is data."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from agenttune.errors import AgenttuneError, UserError
from agenttune.protocol.metrics import encode_number
from agenttune.protocol.proposals import CommandRecord, State

MAX_ANSWER_CHARACTERS = 10_000
"""Longest result, about 3000 tokens (guess: a screenful of rows, which leaves a small model room to think)."""
LEFT_OUT_CHARACTERS = 60
"""Kept free for the number of entries left out."""
PENDING_NOTE = "the trainer has not answered yet; get_history will tell what came of it"


@dataclass(frozen=True)
class Cut:
    """How much of a value is shown."""

    text: int
    entries: int
    depth: int


CUTS = (Cut(4000, 60, 6), Cut(400, 60, 6), Cut(120, 20, 4), Cut(40, 8, 2), Cut(20, 4, 1))
"""Tried in turn until an answer fits; the last always does, for up to 20 values of 4 entries each."""


def encode(payload: dict[str, Any], rows: str = "", keep_first: bool = False) -> str:
    """A payload as JSON of at most `MAX_ANSWER_CHARACTERS`.

    Args:
        payload: Plain values; NaN and infinities become the strings "NaN", "Infinity", "-Infinity".
        rows: The key of a list that is shortened as a whole: its entries are never cut apart.
        keep_first: Leave out the last entries instead of the first ones.
    """
    for cut in CUTS:
        fixed = {key: _clip(value, cut, cut.depth) for key, value in payload.items() if key != rows}
        entries = [_clip(entry, cut, cut.depth) for entry in payload.get(rows, [])]
        room = MAX_ANSWER_CHARACTERS - len(_dumps(fixed)) - len(rows) - LEFT_OUT_CHARACTERS
        if room < 0:
            continue
        kept = _fitting(entries if keep_first else entries[::-1], room)
        if entries and not kept and cut is not CUTS[-1]:
            continue  # one entry alone is too long: rather all of them shorter than none
        shown = entries[:kept] if keep_first else entries[len(entries) - kept :]
        left_out = {"left_out": len(entries) - kept} if kept < len(entries) else {}
        return _dumps({**fixed, **({rows: shown} if rows else {}), **left_out})
    raise AssertionError("the last cut fits by its size")


def _fitting(entries: list[Any], room: int) -> int:
    for index, entry in enumerate(entries):
        room -= len(_dumps(entry)) + 2
        if room < 0:
            return index
    return len(entries)


def _clip(value: Any, cut: Cut, depth: int) -> Any:
    if isinstance(value, float):
        return encode_number(value)
    if isinstance(value, str):
        return value if len(value) <= cut.text else f"{value[: cut.text]}… {len(value) - cut.text} more characters"
    if isinstance(value, dict):
        return _clip_dict(value, cut, depth)
    if isinstance(value, (list, tuple)):
        if depth == 0:
            return f"[{len(value)} entries]"
        kept = [_clip(item, cut, depth - 1) for item in value[: cut.entries]]
        return kept + ([f"… {len(value) - cut.entries} more"] if len(value) > cut.entries else [])
    return value


def _clip_dict(value: dict[Any, Any], cut: Cut, depth: int) -> Any:
    if depth == 0:
        return f"{{{len(value)} entries}}"
    items = list(value.items())[: cut.entries]
    kept = {_clip(str(key), cut, depth): _clip(item, cut, depth - 1) for key, item in items}
    return {**kept, "…": f"{len(value) - cut.entries} more"} if len(value) > cut.entries else kept


def _dumps(value: object) -> str:
    # Half a surrogate pair is no text: no socket would take it.
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=str)
    return text.encode("utf-8", "replace").decode("utf-8")


def error_text(error: AgenttuneError) -> str:
    """An error as a tool's result: what was wrong, where, and what is allowed."""
    told: dict[str, Any] = {"error": str(error)}
    if isinstance(error, UserError):
        told |= {key: value for key, value in (("field", error.field), ("allowed", error.allowed)) if value is not None}
    return encode(told)


def record_text(record: CommandRecord) -> str:
    """What became of a command: its state, the gate's verdict and the trainer's ack."""
    told: dict[str, Any] = {
        "command_id": record.command_id,
        "command": record.proposal.command.kind,
        "state": record.state.value,
        "verdict": record.verdict.model_dump(mode="json", exclude_none=True) if record.verdict else None,
        "ack": record.ack.model_dump(mode="json", exclude_none=True) if record.ack else None,
    }
    if record.state in (State.PROPOSED, State.QUEUED):
        told["note"] = PENDING_NOTE
    return encode(told)
