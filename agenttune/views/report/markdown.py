"""The report as Markdown. Text from runs is escaped: it can be no markup, no link and no HTML."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from agenttune import __version__
from agenttune.protocol.summary import FindingAt
from agenttune.protocol.text import clean
from agenttune.views.report import decision_text, overview
from agenttune.views.report.branch_lines import branch_words
from agenttune.views.report.decision_text import Fact
from agenttune.views.report.decisions import Entry, Journal
from agenttune.views.report.selection import Choice, Fold, choose

SHOWN_FINDINGS = 100
SHOWN_HAPPENINGS = 100
_SPECIAL = re.compile(r"[\\`*_{}\[\]<>|#~&!$@^]|://|(?<=[wW]{3})\.|^[-+=]|^\d+(?=[.)]($|\s))")
"""What CommonMark, GitHub's tables and bare links, or maths could read as markup."""


def escaped(text: str, limit: int = decision_text.LONG) -> str:
    """Text that Markdown shows as it is, on one line."""
    return _SPECIAL.sub(_escape, clean(text, limit))


def _escape(match: re.Match[str]) -> str:
    found = match.group()
    # A number at the start of a line would begin a list; a digit cannot be escaped, the space before it is nothing.
    return f"&#{ord(found[0])};{found[1:]}" if found[0].isdigit() else f"\\{found}"


def markdown(journal: Journal) -> str:
    """The report."""
    return "\n".join(_lines(journal)) + "\n"


def _lines(journal: Journal) -> Iterator[str]:
    info = journal.summary.run
    choice = choose(journal.entries)
    yield f"# Report of {escaped(info.run_id)}\n"
    for warning in overview.warnings(journal):
        yield f"> **{escaped(warning)}**\n"
    yield from _table(overview.head(journal))
    if len(journal.summary.branches) > 1:
        yield "\n## Branches\n"
        yield from (f"- {escaped(branch_words(branch))}" for branch in journal.summary.branches[-SHOWN_HAPPENINGS:])
    yield "\n## Decisions\n"
    yield escaped(overview.counts(journal))
    yield from _decisions(choice)
    yield from _findings(journal.summary.findings)
    yield "\n## Course of the run\n"
    yield from (f"- {escaped(overview.happening_words(h))}" for h in journal.happenings[:SHOWN_HAPPENINGS])
    yield from _rest(len(journal.happenings) - SHOWN_HAPPENINGS)
    yield (
        f"\n---\n\nMade by agenttune {__version__} on {decision_text.when(journal.made_at_s)} "
        f"from {journal.last_seq} events. "
        f"Times are {escaped(decision_text.zone(journal.made_at_s))}."
    )


def _table(facts: Sequence[Fact]) -> Iterator[str]:
    yield "| | |"
    yield "|---|---|"
    yield from (f"| {escaped(fact.label)} | {escaped(fact.text)} |" for fact in facts)


def _decisions(choice: Choice) -> Iterator[str]:
    if choice.left_out:
        yield f"\n**{choice.left_out} decisions from the middle are left out here; the JSONL export has all.**"
    for entry in choice.entries:
        yield from _entry(entry)
    for fold in choice.folds:
        yield from _fold(fold)
    if choice.left_out_folds:
        yield f"\n{choice.left_out_folds} decisions of rarer kinds are left out."


def _entry(entry: Entry) -> Iterator[str]:
    where = decision_text.at_step(entry.step)
    yield f"\n### {where}, {entry.outcome}: {escaped(decision_text.title(entry))}\n"
    yield from _table(decision_text.facts(entry))


def _fold(fold: Fold) -> Iterator[str]:
    first, last = (decision_text.at_step(fold.entries[i].step) for i in (0, -1))
    yield (
        f"\n### {len(fold.entries)} times {fold.outcome}: {escaped(fold.kind)} asked by {escaped(fold.author)}, "
        f"decided by {escaped(fold.decided_by)}, {first} to {last}\n"
    )
    yield "The first one:\n"
    yield from _table(decision_text.facts(fold.entries[0]))


def _findings(findings: Sequence[FindingAt]) -> Iterator[str]:
    yield "\n## Findings\n"
    if not findings:
        yield "The detectors found nothing."
    for found in findings[:SHOWN_FINDINGS]:
        finding = found.finding
        yield f"- step {finding.step}, {escaped(finding.kind)} ({finding.severity}): {escaped(finding.summary)}"
    yield from _rest(len(findings) - SHOWN_FINDINGS)


def _rest(count: int) -> Iterator[str]:
    if count > 0:
        yield f"- and {count} more in the log"
