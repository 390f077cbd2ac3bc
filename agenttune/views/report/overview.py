"""The run as a whole in words, as `decision_text.py` has its decisions."""

from __future__ import annotations

from collections.abc import Iterator

from agenttune.protocol.goal_names import is_goal
from agenttune.protocol.text import clean, duration
from agenttune.views.report.cost_lines import all_unusable, cost_report, model_report
from agenttune.views.report.decision_text import LONG, Fact, point_words, when, zone
from agenttune.views.report.decisions import Happening, Journal, Outcome


def head(journal: Journal) -> list[Fact]:
    """The run in a few lines."""
    return [Fact(label, clean(text, LONG)) for label, text in _head(journal) if text]


def _head(journal: Journal) -> Iterator[tuple[str, str]]:
    summary = journal.summary
    info = summary.run
    of = "" if info.max_steps is None else f" of {info.max_steps}"
    yield from _scores(journal)
    yield "decisions", counts(journal)
    yield "status", info.status + (f": {info.status_reason}" if info.status_reason else "")
    yield "steps", f"{info.step}{of} in {duration(summary.duration_s)}"
    yield "started", f"{when(info.started_at_s or info.created_at_s)} {zone(info.created_at_s)}"
    yield "ended", when(info.ended_at_s) if info.ended_at_s is not None else "no end is recorded"
    policies = ", then ".join(dict.fromkeys(summary.policies))
    yield "policy", policies or "none was attached"
    if journal.looks:
        yield "looks", f"{journal.looks} by policies, {journal.holds} of which asked for nothing"
    for line in model_report(summary.decision_costs):
        yield "model", line
    for line in cost_report(summary.cost, summary.decision_costs) or ["no language model was called"]:
        yield "cost", line


def _scores(journal: Journal) -> Iterator[tuple[str, str]]:
    score, info = journal.summary.score, journal.summary.run
    if score is None:
        yield "goal", f"{info.goal_direction} {info.goal_metric}, but no loss was logged"
        return
    less = "less" if score.direction == "minimize" else "more"
    yield "result", f"{score.metric} {point_words(score.last)} ({less} is better)"
    yield "best", point_words(score.best)
    yield "first", point_words(score.first)
    is_asked = is_goal(score.metric, info.goal_metric)
    instead = "" if is_asked else f", which was never logged; shown instead: {score.metric}"
    yield "goal", f"{info.goal_direction} {info.goal_metric}{instead}"


def counts(journal: Journal) -> str:
    """Such as `5 (1 kept, 2 reverted, 2 refused)`."""
    if not journal.entries:
        return "none: nothing was asked for and nothing was changed"
    found: dict[Outcome, int] = {}
    for entry in journal.entries:
        found[entry.outcome] = found.get(entry.outcome, 0) + 1
    return f"{len(journal.entries)} ({', '.join(f'{n} {outcome}' for outcome, n in found.items())})"


def warnings(journal: Journal) -> list[str]:
    """What a reader must know before anything else."""
    info, found = journal.summary.run, []
    if journal.process_is_gone:
        found.append(f"This run was never closed: its process {info.pid} is gone. What follows is what it left.")
    elif journal.is_open:
        found.append(f"This run has not ended: it is {info.status}. The report tells what is known so far.")
    elif info.status in ("failed", "lost", "interrupted"):
        found.append(clean(f"The run did not end well: it is {info.status}. {info.status_reason}"))
    lost = [entry for entry in journal.entries if entry.outcome == "waiting"]
    if lost and (journal.process_is_gone or not journal.is_open):
        found.append(f"{_times(len(lost), 'command')} never decided or never answered: marked as waiting.")
    if all_unusable(journal.summary.decision_costs):
        found.append(
            clean(f"The language model was of no use: {model_report(journal.summary.decision_costs)[0]}", LONG)
        )
    if left := journal.summary.not_carried_out:
        found.append(clean(f"Not carried out of the plan: {'; '.join(left)}", LONG))
    undone = sum(entry.check is not None and not entry.check.read.held for entry in journal.entries)
    if undone:
        found.append(f"{_times(undone, 'change')} no longer in force when read again some steps later.")
    return found


def _times(count: int, what: str) -> str:
    return f"1 {what} was" if count == 1 else f"{count} {what}s were"


def happening_words(happening: Happening) -> str:
    step = "" if happening.step is None else f", step {happening.step}"
    return f"{when(happening.at_s)}{step}, {happening.mark}: {clean(happening.text)}"
