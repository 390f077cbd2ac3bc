"""What people are told, as plain text. Foreign text in it is bounded, on one line, and no link and no mention."""

from __future__ import annotations

from dataclasses import dataclass

from agenttune.protocol.events import Event, RunInfo, Settled
from agenttune.protocol.proposals import CommandRecord
from agenttune.protocol.text import clean, duration, number
from agenttune.server.pages.request_text import Asked, moment

TITLE_CHARACTERS = 120
REASON_CHARACTERS = 600
MOST_CHANGES = 8
_HARMLESS = str.maketrans({"<": "‹", ">": "›", "[": "(", "]": ")", "`": "'", "@": " at ", "|": "/"})
"""What chat services and HTML mail make links, mentions or markup of."""


@dataclass(frozen=True)
class Notice:
    """A message to people."""

    title: str
    body: str


def plain(text: str, limit: int = 200) -> str:
    """Foreign text that no reader of messages takes for markup or an address."""
    return clean(clean(text, 4 * limit).translate(_HARMLESS).replace("://", " : //"), limit)


def approval_notice(asked: Asked, run_id: str, url: str, link: str) -> Notice:
    """A command waits for a person.

    Args:
        asked: The request.
        run_id: Its run.
        url: Of the control server, for a shell on its machine.
        link: To the page; empty for none.
    """
    changes = [f"{plain(name)}: {before} -> {after}" for name, before, after in asked.changes[:MOST_CHANGES]]
    if len(asked.changes) > MOST_CHANGES:
        changes.append(f"and {len(asked.changes) - MOST_CHANGES} more")
    if not changes:
        changes.append(plain(" ".join(asked.exact.split()), 300))
    shell = f"agenttune approve show {asked.command_id} --run {plain(run_id)} --url {url}"
    lines = [
        f"{plain(asked.who)} asks for {asked.kind} (risk: {asked.risk}) in run {plain(run_id)}",
        *changes,
        f'Reason: "{plain(asked.reason, REASON_CHARACTERS)}"' if asked.reason else "Reason: none given",
        "Rests on: " + ", ".join(f"{plain(label)} {plain(value)}" for label, value in asked.evidence),
        f"{asked.silence} {asked.cost}",
        *([f"Look at it and decide, once: {link}"] if link else []),
        f"From a shell: {shell}, then yes or no in place of show",
    ]
    return Notice(plain(f"Approve {asked.kind} in {run_id}?", TITLE_CHARACTERS), "\n".join(lines))


def reverted_notice(record: CommandRecord, settled: Settled, event: Event, info: RunInfo) -> Notice:
    """Probation undid a change."""
    proposal = record.proposal
    lines = [
        f"Run {plain(info.run_id)}: {proposal.command.kind} by {plain(proposal.author.name)} was undone at step "
        f"{event.step}",
        f"Why: {plain(settled.reason, REASON_CHARACTERS)}",
    ]
    if settled.forecast is not None and settled.found is not None:
        metric = plain(settled.metric) or "the metric"
        lines.append(f"{metric} was going to {number(settled.forecast)} and went to {number(settled.found)}")
    return Notice(plain(f"Reverted {proposal.command.kind} in {info.run_id}", TITLE_CHARACTERS), "\n".join(lines))


def ended_notice(info: RunInfo, metric_value: float | None) -> Notice:
    """A run ended, well or not."""
    of = f" of {info.max_steps}" if info.max_steps is not None else ""
    lines = [f"Run {plain(info.run_id)} is {info.status} at step {info.step}{of}"]
    if info.status_reason:
        lines.append(plain(info.status_reason, REASON_CHARACTERS))
    if info.ended_at_s is not None:
        lines.append(f"after {duration(info.ended_at_s - info.created_at_s)}, at {moment(info.ended_at_s)}")
    if metric_value is not None:
        lines.append(f"{plain(info.goal_metric)}: {number(metric_value)}")
    lines.append(f"More: agenttune report {plain(info.run_id)}")
    return Notice(plain(f"Run {info.run_id} {info.status}", TITLE_CHARACTERS), "\n".join(lines))
