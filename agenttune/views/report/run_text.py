"""The run as a whole in words, as `decision_facts.py` has its decisions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from agenttune.protocol.commands import StopTraining, recorded_words
from agenttune.protocol.events import ReadBack
from agenttune.protocol.goal_names import is_goal
from agenttune.protocol.summary import BranchSummary, FindingAt, ShadowedProposal, ShadowScore
from agenttune.protocol.text import clean, cut, duration, number, plural
from agenttune.views.event_lines import EventLine, best_words
from agenttune.views.report.cost_lines import all_unusable, cost_report, model_report, probe_line
from agenttune.views.report.decision_facts import SHORT, Fact, point_words, when, zone
from agenttune.views.report.journal import CHANGED, DecisionOutcome, Journal, PolicyFailure

ERROR_CHARACTERS = 300
"""Of a policy's error, in a warning."""


def head(journal: Journal) -> list[Fact]:
    """The run in a few lines."""
    return [Fact(label, text) for label, text in _head(journal) if text]


def _head(journal: Journal) -> Iterator[tuple[str, str]]:
    summary = journal.summary
    info = summary.run
    of = "" if info.max_steps is None else f" of {info.max_steps}"
    yield from _scores(journal)
    yield "decisions", counts(journal)
    yield "status", info.status + (f": {info.status_reason}" if info.status_reason else "")
    yield "steps", f"{info.step}{of} in {duration(summary.duration_s)}"
    yield "started", f"{when(info.started_at_s or info.created_at_s)} {zone(info.created_at_s)}"
    if info.attempt > 1:
        yield "attempts", f"{info.attempt}: the job was started again, and the run went on"
    yield "ended", when(info.ended_at_s) if info.ended_at_s is not None else "no end is recorded"
    policies = ", then ".join(dict.fromkeys(summary.policies))
    yield "policy", policies or "none was attached"
    if journal.looks:
        count = sum(failure.count for failure in journal.failures)
        failed = f"; in {count} a policy failed" if count else ""
        yield "looks", f"{journal.looks} by policies, {journal.holds} of which asked for nothing{failed}"
    for line in model_report(summary.decision_costs):
        yield "model", line
    for line in cost_report(summary.cost, summary.decision_costs) or ["no language model was called"]:
        yield "cost", line
    yield "probes", probe_line(summary.probing, info.step)
    for left in summary.not_carried_out:
        yield "not done", f"plan: {left}"


def _scores(journal: Journal) -> Iterator[tuple[str, str]]:
    score, info = journal.summary.score, journal.summary.run
    if score is None:
        yield "goal", f"{info.goal_direction} {info.goal_metric}, but no loss was logged{_since_return(journal)}"
        return
    less = "less" if score.direction == "minimize" else "more"
    yield "result", f"{score.metric} {point_words(score.last)} ({less} is better)"
    kept = journal.summary.best_state
    yield "best", point_words(score.best) if kept is None else best_words(kept)
    yield "first", point_words(score.first)
    is_asked = is_goal(score.metric, info.goal_metric)
    instead = "" if is_asked else f", which was never logged; shown instead: {score.metric}"
    yield "goal", f"{info.goal_direction} {info.goal_metric}{instead}"


def _since_return(journal: Journal) -> str:
    """On which branch nothing was logged, where others have a course of their own."""
    here = next((branch for branch in journal.summary.branches if branch.is_current and branch.parent), None)
    if here is None:
        return ""
    return f" since the run went back to step {here.from_step} of {cut(here.parent or '', 60)}; see the branches"


def counts(journal: Journal) -> str:
    """Such as `5 (1 kept, 2 reverted, 2 refused)`."""
    if not journal.entries:
        return "none: nothing was asked for and nothing was changed"
    found: dict[DecisionOutcome, int] = {}
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
        found.append(f"The run did not end well: it is {info.status}. {info.status_reason}")
    saved = journal.summary.on_disk
    if saved is not None and (journal.process_is_gone or info.status in ("failed", "lost", "interrupted")):
        found.append(f"Its newest checkpoint, of step {journal.summary.on_disk_step}, lies in {saved.path}")
    lost = [entry for entry in journal.entries if entry.outcome == "waiting"]
    if lost and (journal.process_is_gone or not journal.is_open):
        found.append(f"{_times(len(lost), 'command')} never decided or never answered: marked as waiting.")
    if all_unusable(journal.summary.decision_costs):
        found.append(f"The language model was of no use: {model_report(journal.summary.decision_costs)[0]}")
    found += map(_failure_words, journal.failures)
    if left := journal.summary.not_carried_out:
        found.append(f"{plural(len(left), 'step')} of the plan not carried out: see `not done`.")
    checks = [event.body for entry in journal.entries for event in entry.events.values()]
    undone = sum(isinstance(check, ReadBack) and not check.held for check in checks)
    if undone:
        found.append(f"{_times(undone, 'change')} no longer in force when read again some steps later.")
    return found


def _failure_words(failure: PolicyFailure) -> str:
    at = "" if failure.step is None else f", at step {failure.step}"
    often = f"at {failure.count} of {plural(failure.looks, 'look')}"
    error = clean(failure.error, ERROR_CHARACTERS)
    return f"The policy {cut(failure.policy, 80)} failed {often}; the newest error{at}: {error}"


def _times(count: int, what: str) -> str:
    return f"1 {what} was" if count == 1 else f"{count} {what}s were"


def happening_words(happening: EventLine) -> str:
    step = "" if happening.step is None else f", step {happening.step}"
    return f"{when(happening.at_s)}{step}, {happening.mark}: {happening.text}"


def branch_words(branch: BranchSummary) -> str:
    """How a branch began, and what of it the run stands on."""
    start = "" if branch.parent is None else f" from {cut(branch.parent, 60)} at step {branch.from_step}"
    checkpoint = f" (checkpoint {cut(branch.checkpoint_id, 80)})" if branch.checkpoint_id else ""
    if branch.is_current:
        state = "the run is here"
    elif branch.stands_to is None:
        state = "the run stands on all of it"
    elif branch.stands_to < 0:
        state = "left behind"
    else:
        state = f"the run stands on it to step {branch.stands_to}, the rest was left behind"
    return f"{cut(branch.name, 60)}{start}{checkpoint}: to step {branch.last_step}, {state}"


def shadow_words(proposal: ShadowedProposal, metric: str) -> str:
    """What a policy in shadow would have asked for, beside what was done."""
    asked = recorded_words({"kind": proposal.kind, **proposal.arguments})
    before, after = (None if m is None else m.value for m in (proposal.metric_before, proposal.metric_after))
    moved = "" if before is None or after is None else f"; {metric} {number(before)} -> {number(after)}"
    critical = " (critical finding)" if proposal.critical_after else ""
    done = cut(proposal.done, SHORT) or "nothing"
    who = cut(proposal.policy, 60)
    return (
        f"step {proposal.step}, {who} would have asked for {asked}: {proposal.hindsight}; done: {done}{moved}{critical}"
    )


def shadow_totals(score: ShadowScore) -> str:
    """How what was proposed in shadow compares to what was done."""
    critical = f" ({score.alone_before_critical} before a critical finding)" if score.alone_before_critical else ""
    totals = f"{score.agreed} agreed, {score.opposed} opposed, {score.alone} alone{critical}"
    return f"in shadow: {totals}, beside the {score.window_steps} steps after each"


def why_nothing(journal: Journal) -> str:
    """Why nothing was changed, where that is known."""
    return ", for no decision of the model could be used" if all_unusable(journal.summary.decision_costs) else ""


def to_go_on(journal: Journal) -> str:
    """How a run that was stopped with a checkpoint can be continued, as its trainer said; empty for others."""
    stops = [i for i in journal.summary.interventions if i.kind == StopTraining.kind_name() and i.state in CHANGED]
    said = [str(i.result.get("to_go_on") or "") for i in stops]
    return said[-1] if said and not journal.is_open else ""


def finding_words(found: FindingAt) -> str:
    """What a detector saw, and what a person said of it."""
    finding = found.finding
    said = {True: ". A person said that it was right", False: ". A person said that it was wrong", None: ""}
    return f"step {finding.step}, {finding.kind} ({finding.severity}): {finding.summary}{said[found.judged_right]}"


def judgement_words(findings: Sequence[FindingAt]) -> str:
    """How many findings people have judged, and how; empty where nobody has."""
    judged = [found.judged_right for found in findings if found.judged_right is not None]
    if not judged:
        return ""
    right = sum(judged)
    return f"People judged {len(judged)} of {len(findings)}: {right} right, {len(judged) - right} wrong."
