"""How a training process ended, in words."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from agenttune.protocol.rank_failures import RankFailure, first_failure, signal_words
from agenttune.protocol.run_info import RunInfo, RunStatus
from agenttune.protocol.text import clean, some

TAIL_LINES = 20
TAIL_BYTES = 64_000
MISTAKE_LINES = 80
"""Of the output's end, in which an error's own frames are looked for."""
_PACKAGE = Path(__file__).resolve().parents[1]
_OURS = re.compile(r"agenttune\.errors\.\w+: ")
_FRAME = re.compile(r' *File "(?P<path>[^"]+)", line (?P<line>\d+)')
SUCCESSES = frozenset({"finished", "stopped"})


@dataclass(frozen=True)
class Ending:
    """What the end of the training process means.

    Attributes:
        status: The run's final status, should its log not have one yet.
        reason: One sentence.
        ok: Whether the run did what was asked.
        is_plain: The reason says all; the script's own output would only repeat it.
    """

    status: RunStatus
    reason: str
    ok: bool
    is_plain: bool = False


def ending_of(
    exit_status: int, info: RunInfo, trained: bool, interrupted: str = "", said: str = "", ranks: str = ""
) -> Ending:
    """Judge the end of a training process.

    Args:
        exit_status: As `subprocess` gives it: negative for a signal.
        info: The run as its log has it.
        trained: Whether the log has the start of a training.
        interrupted: Why we ended the process, if we did.
        said: Our own error that the script ended with, if it did.
        ranks: Which of several ranks failed first, and how, if that is known.
    """
    how = ranks or f"the script {_how(exit_status, by_us=bool(interrupted))}"
    if interrupted:
        return Ending("interrupted", f"{interrupted}; {how}", ok=False)
    if exit_status < 0:
        return Ending("lost", how, ok=False)
    if not trained:
        untrained = f"{ranks} before any training began" if ranks else _untrained(exit_status)
        why = "; ".join(filter(None, [said, untrained]))
        return Ending("failed", why, ok=False, is_plain=bool(said))
    if info.is_live:
        why = ranks or f"{how} without closing its log"
        return Ending("lost" if exit_status == 0 else "failed", why, ok=False)
    if exit_status != 0 and info.status in SUCCESSES:
        return Ending("failed", f"training {info.status}, but then {how}", ok=False)
    if exit_status != 0:
        why = info.status_reason or f"training {info.status}"
        return Ending(info.status, f"{how}; rank 0: {why}" if ranks else f"{why}; {how}", ok=False)
    return Ending(info.status, info.status_reason, ok=info.status in SUCCESSES)


def _untrained(exit_status: int) -> str:
    if exit_status != 0:
        return f"the script {_how(exit_status)} before any training began"
    return (
        "the script ended without training: agenttune saw no run start. Build the trainer with "
        "`agenttune.make_interactive(Trainer)` (or add `agenttune.InteractiveCallback()`) and call `train()`"
    )


def _how(exit_status: int, by_us: bool = False) -> str:
    if exit_status >= 0:
        return f"ended with exit code {exit_status}"
    return f"was killed by {signal_words(-exit_status, by_us)}"


def rank_words(path: Path, by_us: bool = False) -> str:
    """Which rank failed first and how, as the launcher's wrapper has written it; empty if none did.

    Args:
        path: What it has written.
        by_us: We have ended the run.
    """
    try:
        found = [RankFailure(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, TypeError) as error:
        return f"a rank failed; which cannot be read from {path} ({error})"
    first = first_failure(found)
    if first is None:
        return ""
    others = sorted(failure.rank for failure in found if failure.rank != first.rank)
    more = f"; {'ranks' if len(others) > 1 else 'rank'} {some(others, 8)} failed after it" if others else ""
    return first.words(by_us) + more


def own_error(path: Path) -> str:
    """Our error that a script ended with, by its output: the script's own line and the message; empty if none did."""
    lines = tail(path, MISTAKE_LINES)
    last = next((number for number in reversed(range(len(lines))) if _OURS.match(lines[number])), None)
    if last is None:
        return ""
    frames = [frame for frame in map(_FRAME.match, lines[:last]) if frame]
    own = next((f for f in reversed(frames) if not Path(f["path"]).is_relative_to(_PACKAGE)), None)
    at = "" if own is None else f"{Path(own['path']).name}:{own['line']}: "
    return at + _OURS.sub("", lines[last])


def tail(path: Path, lines: int = TAIL_LINES) -> list[str]:
    """The last lines of a log, safe to show; empty if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - TAIL_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return []
    return [_indented(line) for line in text.splitlines() if line.strip()][-lines:]


def _indented(line: str) -> str:
    """A line without control characters, its indentation kept: tracebacks need it."""
    # A progress bar rewrites its line with carriage returns; the last version is the one that counts.
    newest = line.rstrip().rpartition("\r")[2]
    return newest[: len(newest) - len(newest.lstrip(" "))] + clean(newest, 1000)
