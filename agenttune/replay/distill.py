"""From a run to a plain schedule: what was applied in it, at which steps, as a policy file that needs no model."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from agenttune import __version__
from agenttune.control.owner_token import LAUNCHER
from agenttune.policy.schedule import AS_PLANNED, DEFAULT_TOLERANCE_STEPS, EntrySettings
from agenttune.protocol.commands import Impact, Risk
from agenttune.protocol.proposals import Author, CommandRecord, State
from agenttune.protocol.run_info import RunInfo
from agenttune.protocol.summary import outcome_line
from agenttune.protocol.text import clean, number
from agenttune.replay.recordings import line_of
from agenttune.store.journal.goal_metric import EVERYTHING, goal_values, score_of
from agenttune.store.run_log import RunLog

WIDTH = 116
OWN_MARK = re.compile(r"^at_\d+(_\d+)?: ")
"""What a schedule puts before the reasons of its commands."""
TIMING = """\
# Each entry takes effect after `at_step` completed steps. With `wake: {mode: lockstep, every_steps: 1}` in the config
# file it lands at that very step. In async mode training does not wait: an entry lands up to `wake.every_steps` steps
# and one poll (`wake.poll_s`) later; if that is more than `tolerance_steps`, it is dropped, and the log says so."""


@dataclass(frozen=True)
class LeftOut:
    """A command of the run that is not in the schedule, and why."""

    step: int
    what: str
    why: str


@dataclass(frozen=True)
class Distilled:
    """A schedule with where it came from.

    Attributes:
        text: The policy file.
        entries: What it does.
        left_out: What was applied in the run and is only a comment in it.
    """

    text: str
    entries: list[EntrySettings]
    left_out: list[LeftOut]


def distill(log: RunLog, branch: str | None = None, tolerance_steps: int = DEFAULT_TOLERANCE_STEPS) -> Distilled:
    """Turn what was applied in a run into a schedule.

    Args:
        log: The run's log.
        branch: What led to the end of this branch; default: the branch on which the run ended.
        tolerance_steps: For the file: how late an entry may be.

    Raises:
        UserError: No such branch.
    """
    info, line = log.info(), line_of(log, branch)
    applied = [r for r in log.commands(limit=EVERYTHING) if r.ack is not None and r.ack.outcome == "applied"]
    entries: list[tuple[EntrySettings, CommandRecord]] = []
    left_out: list[LeftOut] = []
    for record in sorted(applied, key=lambda record: record.ack_step):
        why = _why_not(record, line.has)
        if why:
            left_out.append(LeftOut(record.ack_step, _told(record), why))
        else:
            entries.append((_entry(record), record))
    name = branch or info.branch
    text = "\n".join([*_head(log, info, name, left_out), *_body(info, name, entries, tolerance_steps)]) + "\n"
    return Distilled(text, [entry for entry, _ in entries], left_out)


def _told(record: CommandRecord) -> str:
    words = record.proposal.command.words
    return f"{words} (by {record.proposal.author.name})"


def _why_not(record: CommandRecord, is_here: Callable[[str, int], bool]) -> str:
    """Why an applied command is not part of the schedule; empty if it is."""
    command, ack = record.proposal.command, record.ack
    if command.not_in_a_schedule:
        return command.not_in_a_schedule
    if ack is not None and not is_here(ack.branch, ack.step):
        return f"the run went back and left branch {ack.branch} before this step"
    if record.state is State.REVERTED:
        return "it was reverted"
    by_launcher = record.proposal.author.is_same(Author(principal="operator", name=LAUNCHER))
    if command.impact is Impact.END and by_launcher:
        return f"somebody interrupted that run ({record.proposal.rationale})"
    if ack is not None and command.in_force(ack) is None:
        return "it adopted nothing"
    return "it changes nothing in the training" if command.risk is Risk.OBSERVE else ""


def _entry(record: CommandRecord) -> EntrySettings:
    do = in_force(record)
    because = OWN_MARK.sub("", " ".join(record.proposal.rationale.split()))
    return EntrySettings(at_step=record.ack_step, do=do, because="" if because == AS_PLANNED else because)


def in_force(record: CommandRecord) -> dict[str, Any]:
    """As an entry has it: the kind, and the values that were read back; of a probe those of what it adopted."""
    ack = record.ack
    command = record.command if ack is None else record.command.in_force(ack) or record.command
    return {"command": command.kind, **command.as_applied([] if ack is None else ack.changes)}


def _head(log: RunLog, info: RunInfo, branch: str, left_out: list[LeftOut]) -> Iterator[str]:
    of = "" if info.max_steps is None else f" of {info.max_steps}"
    yield _comment(
        f"Distilled by agenttune {__version__} from run {info.run_id}, branch {branch}: {info.step}{of} steps"
    )
    score = score_of(goal_values(log, info, branch), info)
    if score is not None:
        steps = (f"{word} {number(at.value)} at step {at.step}" for word, at in _scores(score))
        yield _comment(f"{score.metric}: {', '.join(steps)}")
    yield from TIMING.splitlines()
    if left_out:
        yield "# Applied in that run, and not part of this schedule:"
    for item in left_out:
        yield _comment(f"  step {item.step}: {item.what}: {item.why}")


def _scores(score: Any) -> list[tuple[str, Any]]:
    return [("first", score.first), ("best", score.best), ("final", score.last)]


def _body(
    info: RunInfo, branch: str, entries: list[tuple[EntrySettings, CommandRecord]], tolerance_steps: int
) -> Iterator[str]:
    yield "type: schedule"
    yield _yaml({"description": f"What was applied in run {info.run_id}, branch {branch}."})
    yield f"tolerance_steps: {tolerance_steps}"
    yield "entries:" if entries else "entries: []"
    for entry, record in entries:
        yield _comment(f"by {record.proposal.author.name}: {outcome_line(record)}", "  ")
        item = {"at_step": entry.at_step, "do": entry.do, **({"because": entry.because} if entry.because else {})}
        lines = _yaml(item).splitlines()
        yield "\n".join([f"  - {lines[0]}", *(f"    {text}" for text in lines[1:])])


def _comment(text: str, indent: str = "") -> str:
    """On one line, whatever somebody wrote into the log."""
    lead = len(text) - len(text.lstrip())
    return f"{indent}# {' ' * lead}{clean(text)}"


def _yaml(value: object) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=WIDTH).rstrip("\n")
