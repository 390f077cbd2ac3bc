"""The report as Markdown, from which the terminal and the page make theirs.

Text from runs is escaped: it can be no markup, no link and no HTML in any of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from markdown_it import MarkdownIt

from agenttune import __version__
from agenttune.protocol.text import clean, cut
from agenttune.views.report import decision_facts, run_text
from agenttune.views.report.decision_facts import Fact
from agenttune.views.report.journal import DecisionOutcome, Journal, JournalEntry

_SPECIAL = re.compile(r"[\\`*_{}\[\]<>|#~&!$@^]|://|(?<=[wW]{3})\.|^[-+=]|^\d+(?=[.)]($|\s))")
"""Characters that CommonMark, GitHub's tables and bare links, or maths read as markup."""
SINGLE = 3
"""As many refusals or snapshots of one kind are told one by one; more are folded."""
EXAMPLES = 3
"""Of each fold: the first ones, in full."""
SHOWN_FOLDS = 50
FOLDED: frozenset[DecisionOutcome] = frozenset({"refused", "expired"})


class Detail(NamedTuple):
    """How much is told: `decisions` one by one, `rows` of each other list; the rest is counted.

    Attributes:
        is_brief: Of a decision only why, and what came of it.
    """

    decisions: int = 300
    rows: int = 200
    is_brief: bool = False


FULL = Detail()
"""At most 1 MB of HTML (measured)."""
BRIEF = Detail(decisions=100, rows=12, is_brief=True)
"""For a screen (guess at what a person scrolls through); files have the rest."""


class Section(NamedTuple):
    """A heading with what stands below it, both as Markdown.

    Attributes:
        level: Of the heading, from 1.
        outcome: Of the decision that it tells, or of the decisions; empty if it tells of none.
        numbers: Those decisions.
    """

    level: int
    title: str
    body: str
    outcome: str = ""
    numbers: tuple[int, ...] = ()

    @property
    def anchor(self) -> str:
        """Its place on a page; empty for what no mark leads to."""
        return f"d{self.numbers[0]}" if self.numbers else ""

    @property
    def is_fold(self) -> bool:
        return len(self.numbers) > 1

    @property
    def text(self) -> str:
        title = f"{self.outcome}, {self.title}" if self.outcome else self.title
        return f"{'#' * self.level} {title}\n\n{self.body}".rstrip()


class Fold(NamedTuple):
    """Refusals, or snapshots, of one kind: the same outcome, command and author, decided by the same."""

    outcome: DecisionOutcome
    kind: str
    author: str
    decided_by: str
    entries: list[JournalEntry]

    @property
    def examples(self) -> list[JournalEntry]:
        return self.entries[:EXAMPLES]


class Choice(NamedTuple):
    """What is shown, and how much is not."""

    entries: list[JournalEntry]
    folds: list[Fold]
    left_out: int
    left_out_folds: int


def parser() -> MarkdownIt:
    """Reads what this module writes, and nothing that could lead out of a page: no links, no images, no HTML."""
    return MarkdownIt("zero").enable(["heading", "table", "list", "blockquote", "code", "emphasis", "escape", "entity"])


def escaped(text: str, limit: int = decision_facts.LONG) -> str:
    """Text that Markdown shows as it is, on one line."""
    return _SPECIAL.sub(_escape, clean(text, limit))


def _escape(match: re.Match[str]) -> str:
    found = match.group()
    # A number at the start of a line would begin a list; a digit cannot be escaped, the space before it is nothing.
    return f"&#{ord(found[0])};{found[1:]}" if found[0].isdigit() else f"\\{found}"


def markdown(journal: Journal, detail: Detail = FULL) -> str:
    """The report as one text."""
    parts = [section.text for section in (*run_sections(journal, detail), *further_sections(journal, detail))]
    return "\n\n".join([*parts, *([] if detail.is_brief else ["---", footer(journal)])]) + "\n"


def run_sections(journal: Journal, detail: Detail = FULL) -> Iterator[Section]:
    """The run as a whole, and its branches if it went back."""
    info = journal.summary.run
    warnings = [f"> **{escaped(warning)}**\n" for warning in run_text.warnings(journal)]
    go_on = run_text.to_go_on(journal)
    # Code, which nobody breaks into lines: it is made to be copied.
    rest = f"\n\nTo go on:\n\n    {clean(go_on, decision_facts.LONG)}" if go_on else ""
    body = "\n".join([*warnings, facts_table(run_text.head(journal))]) + rest
    yield Section(1, f"{escaped(info.run_id)} {info.status}", body)
    if len(journal.summary.branches) > 1:
        words = [run_text.branch_words(branch) for branch in journal.summary.branches]
        yield Section(2, "Branches", listed(words, detail.rows, newest=True))


def further_sections(journal: Journal, detail: Detail = FULL) -> Iterator[Section]:
    """What was decided, found, and done besides."""
    choice = _choose(journal.entries, detail.decisions)
    changes = [entry for entry in choice.entries if entry.is_change]
    others = [entry for entry in choice.entries if not entry.is_change]
    yield Section(2, "What was changed, why, and what came of it", _before_changes(journal, choice, bool(changes)))
    yield from (_decision(entry, detail) for entry in changes)
    if others or choice.folds:
        left_out = choice.left_out_folds
        yield Section(
            2, "What else was asked", f"{left_out} decisions of rarer kinds are left out." if left_out else ""
        )
        yield from (_decision(entry, detail) for entry in others)
        yield from (_fold(fold, detail) for fold in choice.folds)
    yield from _shadow(journal, detail)
    found = journal.summary.findings
    words = [run_text.finding_words(one) for one in found]
    listing = listed(words, detail.rows) or "The detectors found nothing."
    yield Section(2, "Findings", "\n\n".join(filter(None, [run_text.judgement_words(found), listing])))
    happenings = [run_text.happening_words(happening) for happening in journal.happenings]
    yield Section(2, "Course of the run", listed(happenings, detail.rows) or "Nothing is recorded.")


def footer(journal: Journal) -> str:
    """Where the report comes from."""
    when, run_id = decision_facts.when, journal.summary.run.run_id
    return (
        f"Made by agenttune {__version__} on {when(journal.made_at_s)} from {journal.last_seq} events of the log, the "
        f"last of {when(journal.last_event_at_s)}. Times are {escaped(decision_facts.zone(journal.made_at_s))}. "
        f"Everything that was recorded: agenttune report {escaped(run_id)} --format jsonl"
    )


def _before_changes(journal: Journal, choice: Choice, any_changes: bool) -> str:
    lines = [] if any_changes else [f"Nothing was changed{run_text.why_nothing(journal)}."]
    if choice.left_out:
        lines.append(
            f"**{choice.left_out} decisions from the middle of the run are left out here; the JSONL export has all.**"
        )
    return "\n\n".join(lines)


def _decision(entry: JournalEntry, detail: Detail) -> Section:
    title, body = _told(entry, detail)
    return Section(3, title, body, entry.outcome, (entry.number,))


def _told(entry: JournalEntry, detail: Detail) -> tuple[str, str]:
    where, by = decision_facts.at_step(entry.step), decision_facts.author(entry)
    title = escaped(f"{where}: {decision_facts.title(entry)}, by {by}")
    return title, facts_table(decision_facts.facts(entry, detail.is_brief))


def _fold(fold: Fold, detail: Detail) -> Section:
    first, last = (decision_facts.at_step(fold.entries[i].step) for i in (0, -1))
    title = (
        f"{len(fold.entries)} times: {escaped(fold.kind)} asked by {escaped(fold.author)}, "
        f"decided by {escaped(fold.decided_by)}, {first} to {last}"
    )
    examples = fold.examples[:1] if detail.is_brief else fold.examples
    parts = [f"#### {heading}\n\n{body}" for heading, body in (_told(entry, detail) for entry in examples)]
    left_out = len(fold.entries) - len(examples)
    parts += [f"{left_out} more like {'this' if len(examples) == 1 else 'these'} are in the log."] if left_out else []
    return Section(3, title, "\n\n".join(parts), fold.outcome, tuple(entry.number for entry in fold.entries))


def _shadow(journal: Journal, detail: Detail) -> Iterator[Section]:
    score = journal.summary.shadow
    if score is not None:
        metric = journal.summary.score.metric if journal.summary.score else journal.summary.run.goal_metric
        words = [run_text.shadow_words(proposal, metric) for proposal in score.proposals]
        totals = escaped(run_text.shadow_totals(score))
        yield Section(2, "In shadow: what was not done", f"{totals}\n\n{listed(words, detail.rows)}")


def facts_table(facts: Iterable[Fact]) -> str:
    return table([escaped(fact.label), escaped(fact.text)] for fact in facts)


def table(rows: Iterable[Sequence[str]], head: str = "| | |\n|---|---|") -> str:
    """Rows of cells under a head with its rule, all of which are Markdown."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([head, *lines]) if lines else ""


def listed(texts: Sequence[str], most: int, newest: bool = False) -> str:
    """The first and the newest, or the newest only: how something began and how it ended matter most."""
    first = 0 if newest or len(texts) <= most else most // 2
    left_out = max(0, len(texts) - most)
    rows = [*texts[:first], *([f"({left_out} more are left out)"] if left_out else []), *texts[first + left_out :]]
    return "\n".join(f"- {escaped(text)}" for text in rows)


def _choose(entries: Sequence[JournalEntry], most: int) -> Choice:
    """Choose what a report shows of a run's decisions: `most` one by one, half of them the first, half the newest."""
    groups: dict[tuple[str, ...], list[JournalEntry]] = {}
    for entry in entries:
        if entry.outcome in FOLDED or entry.is_housekeeping:
            groups.setdefault(_key(entry), []).append(entry)
    folded = [group for group in groups.values() if len(group) > SINGLE]
    numbers = {entry.number for group in folded for entry in group}
    single = [entry for entry in entries if entry.number not in numbers]
    folded.sort(key=len, reverse=True)
    return Choice(
        entries=single if len(single) <= most else single[: most // 2] + single[-(most - most // 2) :],
        folds=sorted((_fold_of(group) for group in folded[:SHOWN_FOLDS]), key=lambda fold: fold.entries[0].number),
        left_out=max(0, len(single) - most),
        left_out_folds=sum(len(group) for group in folded[SHOWN_FOLDS:]),
    )


def _key(entry: JournalEntry) -> tuple[str, ...]:
    record = entry.record
    by = record.verdict.decided_by if record.verdict is not None else ""
    return entry.outcome, record.proposal.command.kind, record.proposal.author.name, by


def _fold_of(group: list[JournalEntry]) -> Fold:
    first = group[0]
    by = first.record.verdict.decided_by if first.record.verdict is not None else "nobody"
    author = cut(first.record.proposal.author.name, 60)
    return Fold(first.outcome, first.record.proposal.command.kind, author, cut(by, 80), group)
