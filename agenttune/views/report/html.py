"""The report as one HTML file that needs nothing else: no network, no script, no font."""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from agenttune import __version__
from agenttune.protocol.text import clean
from agenttune.store.run_log import RunLog
from agenttune.views.report import decision_text, overview
from agenttune.views.report.branch_lines import branch_words
from agenttune.views.report.curves import MAX_POINTS, Panel, panels
from agenttune.views.report.decisions import OUTCOMES, Entry, Journal
from agenttune.views.report.selection import Choice, choose
from agenttune.views.report.svg import Mark, draw, is_log, sample

SHOWN_FINDINGS = 200
SHOWN_HAPPENINGS = 300
SHOWN_SHADOWED = 100
"""Rows of the lists at the end; what is left out is counted."""


def html(log: RunLog, journal: Journal) -> str:
    """The page."""
    environment = Environment(
        loader=PackageLoader("agenttune.views.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["clean"] = clean
    choice = choose(journal.entries)
    return environment.get_template("report.html.j2").render(
        journal=journal,
        words=decision_text,
        overview=overview,
        branch_words=branch_words,
        choice=choice,
        drawings=_drawings(panels(log, journal), _marks(journal.entries, choice), journal),
        legend=[(outcome, sample(outcome), decision_text.MEANING[outcome]) for outcome in OUTCOMES],
        branches=journal.summary.branches[-SHOWN_HAPPENINGS:],
        findings=journal.summary.findings[:SHOWN_FINDINGS],
        happenings=_ends(journal.happenings),
        shadow=journal.summary.shadow,
        shown_shadowed=SHOWN_SHADOWED,
        max_points=MAX_POINTS,
        version=__version__,
    )


def _ends(items: Sequence[object]) -> list[object]:
    """The first and the newest: how a run began and how it ended matter most."""
    half = SHOWN_HAPPENINGS // 2
    return list(items) if len(items) <= SHOWN_HAPPENINGS else [*items[:half], *items[-half:]]


def _marks(entries: Sequence[Entry], choice: Choice) -> list[Mark]:
    anchors = choice.anchor_of()
    return [
        Mark(entry.step, entry.outcome, decision_text.title(entry), anchors.get(entry.number, ""), entry.is_abandoned)
        for entry in entries
        if entry.step is not None and not entry.is_housekeeping
    ]


def _drawings(found: Sequence[Panel], marks: Sequence[Mark], journal: Journal) -> list[tuple[Panel, Markup, list[str]]]:
    ends = [line.curve.steps[-1] for panel in found for line in panel.lines]
    last_step = max([journal.summary.run.step, *ends])
    return [(panel, draw(panel, marks, last_step), _notes(panel)) for panel in found]


def _notes(panel: Panel) -> list[str]:
    notes = [*panel.notes, *(["logarithmic scale"] if is_log(panel) else [])]
    thinned = max(line.curve.bucket_points for line in panel.lines)
    if thinned > 1:
        notes.append(f"each point is the mean of up to {thinned} steps, the band their range")
    lost = sum(sum(line.curve.nonfinite) for line in panel.lines)
    if lost:
        notes.append(f"{lost} values NaN or infinite: gaps, and red bars at the top")
    if any(line.is_abandoned for line in panel.lines):
        notes.append("faint: what the run left behind when it went back")
    if {line.label for line in panel.lines} >= {"effective", "base"}:
        notes.append("full line: the effective rate, dashed: the base that the schedule scales")
    return notes
