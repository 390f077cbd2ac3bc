"""The report as one HTML file that needs nothing else: no network, no script, no font."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from agenttune.protocol.text import clean
from agenttune.store.run_log import RunLog
from agenttune.views.report import decision_facts
from agenttune.views.report.curves import Panel, panels
from agenttune.views.report.journal import OUTCOMES, Journal, JournalEntry
from agenttune.views.report.markdown import Section, footer, further_sections, parser, run_sections
from agenttune.views.report.svg import Mark, draw, is_log, sample

_RULE = re.compile(r"([^{}]+)(\{[^{}]*\})")


def html(log: RunLog, journal: Journal) -> str:
    """The page: the Markdown report with curves, whose marks lead to the decisions."""
    environment = Environment(
        loader=PackageLoader("agenttune.views.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    reader = parser()
    environment.filters["clean"] = clean
    environment.filters["block"] = lambda text: Markup(reader.render(text))  # text of runs is escaped in it
    environment.filters["line"] = lambda text: Markup(reader.renderInline(text))
    sections = list(further_sections(journal))
    return environment.get_template("report.html.j2").render(
        run=journal.summary.run,
        head=list(run_sections(journal)),
        drawings=_drawings(panels(log, journal), _marks(journal.entries, sections), journal),
        legend=[(o, sample(o), decision_facts.MEANING[o]) for o in OUTCOMES] if journal.entries else [],
        sections=sections,
        footer=footer(journal),
    )


def picture(log: RunLog, journal: Journal) -> Markup:
    """The curves alone, with the marks of decisions; `picture_style` has their looks."""
    marks = [mark._replace(anchor="") for mark in _marks(journal.entries, [])]
    return Markup("").join(
        Markup('<figure class="{k}"><figcaption>{t}</figcaption>{d}</figure>').format(
            k=panel.key, t=clean("; ".join([panel.title, *notes]), 500), d=drawn
        )
        for panel, drawn, notes in _drawings(panels(log, journal), marks, journal)
    )


def picture_style(within: str) -> str:
    """Rules for the curves and marks of a `picture`, which hold inside of one class of elements only.

    Args:
        within: That class. It sets the colours that the rules name: `--line`, `--dim`, `--blue` and so on.
    """
    text = (files("agenttune.views.report") / "templates" / "curves.css").read_text("utf-8")
    rules = _RULE.findall(re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL))
    scoped = ((",".join(f".{within} {one.strip()}" for one in names.split(",")), body) for names, body in rules)
    return "\n".join(f"{names}{body}" for names, body in scoped)


def _marks(entries: Sequence[JournalEntry], sections: Sequence[Section]) -> list[Mark]:
    anchors = {number: section.anchor for section in sections for number in section.numbers}
    return [
        Mark(entry.step, entry.outcome, decision_facts.title(entry), anchors.get(entry.number, ""), entry.is_abandoned)
        for entry in entries
        if entry.step is not None and not entry.is_housekeeping
    ]


def _drawings(found: Sequence[Panel], marks: Sequence[Mark], journal: Journal) -> list[tuple[Panel, Markup, list[str]]]:
    ends = [line.curve.steps[-1] for panel in found for line in panel.lines]
    last_step = max([journal.summary.run.step, *ends])
    return [(panel, draw(panel, marks, last_step), _notes(panel)) for panel in found]


def _notes(panel: Panel) -> list[str]:
    notes = [*panel.notes, *(["logarithmic scale"] if is_log(panel) else [])]
    downsampled = max(line.curve.bucket_points for line in panel.lines)
    if downsampled > 1:
        notes.append(f"each point is the mean of up to {downsampled} steps, the band their range")
    lost = sum(sum(line.curve.nonfinite) for line in panel.lines)
    if lost:
        notes.append(f"{lost} values NaN or infinite: gaps, and red bars at the top")
    if any(line.is_abandoned for line in panel.lines):
        notes.append("faint: what the run left behind when it went back")
    if {line.label for line in panel.lines} >= {"effective", "base"}:
        notes.append("full line: the effective learning rate, dashed: the base that the schedule scales")
    return notes
