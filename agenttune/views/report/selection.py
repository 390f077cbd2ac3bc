"""What of many decisions a page of bounded size shows: changes one by one, refusals and snapshots in groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from agenttune.protocol.text import clean
from agenttune.views.report.journal import Entry, Outcome

SINGLE = 3
"""As many refusals or snapshots of one kind are told one by one; more are folded."""
EXAMPLES = 3
"""Of each fold: the first ones, in full."""
SHOWN_FOLDS = 50
FOLDED: frozenset[Outcome] = frozenset({"refused", "expired"})


class Fold(NamedTuple):
    """Refusals, or snapshots, of one kind: the same outcome, command and author, decided by the same."""

    outcome: Outcome
    kind: str
    author: str
    decided_by: str
    entries: list[Entry]

    @property
    def examples(self) -> list[Entry]:
        return self.entries[:EXAMPLES]


class Choice(NamedTuple):
    """What is shown, and how much is not."""

    entries: list[Entry]
    folds: list[Fold]
    left_out: int
    left_out_folds: int


def choose(entries: Sequence[Entry], most: int) -> Choice:
    """Choose what a report shows of a run's decisions: `most` one by one, half of them the first, half the newest."""
    groups: dict[tuple[str, ...], list[Entry]] = {}
    for entry in entries:
        if entry.outcome in FOLDED or entry.is_housekeeping:
            groups.setdefault(_key(entry), []).append(entry)
    folded = [group for group in groups.values() if len(group) > SINGLE]
    numbers = {entry.number for group in folded for entry in group}
    single = [entry for entry in entries if entry.number not in numbers]
    folded.sort(key=len, reverse=True)
    return Choice(
        entries=single if len(single) <= most else single[: most // 2] + single[-(most - most // 2) :],
        folds=sorted((_fold(group) for group in folded[:SHOWN_FOLDS]), key=lambda fold: fold.entries[0].number),
        left_out=max(0, len(single) - most),
        left_out_folds=sum(len(group) for group in folded[SHOWN_FOLDS:]),
    )


def _key(entry: Entry) -> tuple[str, ...]:
    record = entry.record
    by = record.verdict.decided_by if record.verdict is not None else ""
    return entry.outcome, record.proposal.command.kind, record.proposal.author.name, by


def _fold(group: list[Entry]) -> Fold:
    first = group[0]
    by = first.record.verdict.decided_by if first.record.verdict is not None else "nobody"
    author = clean(first.record.proposal.author.name, 60)
    return Fold(first.outcome, first.record.proposal.command.kind, author, clean(by, 80), group)
