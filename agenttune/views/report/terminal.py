"""The report of a run: what it reached, what was changed, why, and what came of it. Reads, never writes."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from agenttune.protocol.commands import BY_KIND, Risk
from agenttune.protocol.events import RunInfo
from agenttune.protocol.goal_names import is_goal
from agenttune.protocol.proposals import State
from agenttune.protocol.summary import Intervention, MetricAt, RunSummary, Score
from agenttune.protocol.text import clean, duration, number
from agenttune.store.process_liveness import is_alive
from agenttune.store.run_log import LOG_NAME
from agenttune.views.event_lines import BAD_STATUS, SEVERITY_STYLE, command_words
from agenttune.views.report.branch_lines import branch_words
from agenttune.views.report.cost_lines import all_unusable, cost_report, model_report, probe_line
from agenttune.views.report.shadow_lines import print_shadow

REFUSED = frozenset({State.REJECTED, State.SUPERSEDED, State.EXPIRED})
DONE = frozenset({State.APPLIED, State.KEPT, State.REVERTED})
DONE_WORDS = frozenset(state.value for state in DONE)
LOOKS = frozenset(kind for kind, command in BY_KIND.items() if command.risk is Risk.OBSERVE) | {
    "do_evaluate",
    "save_checkpoint",
}
"""Commands that look, note or save, and leave the run as it was."""
LABEL_WIDTH = 10
RESULT_CHARACTERS = 40
"""Of what a command gave back, such as a long path; the log has the whole."""
SHOWN_BRANCHES = 12
FOLDED_REFUSALS = 3
"""As many of one kind are shown one by one; of more the first is, and the others are counted."""
SHOWN_FINDINGS = 12
"""The first findings of a run tell its story; the log holds all."""
TABLE_COLUMNS = 100
"""Narrower terminals get the changes as lines: a table of five columns would break names and numbers (tried by eye)."""
PATH_CHARACTERS = 5000
"""Longer than any path (4096 on Linux)."""
DEFAULT_RUNS_DIR = "runs"


def report_command(run_id: str, runs_dir: Path) -> str:
    """The command that shows a run's report, as it can be typed in the current folder."""
    if runs_dir.resolve() == Path(DEFAULT_RUNS_DIR).resolve():
        return f"agenttune report {shlex.quote(run_id)}"
    return f"agenttune report {shlex.quote(run_id)} --runs-dir {shlex.quote(str(runs_dir))}"


def print_report(console: Console, summary: RunSummary) -> None:
    """Show a report."""
    info = summary.run
    console.print(_headline(info, summary.duration_s))
    for line in _scores(summary.score, info):
        console.print(line)
    for policy in dict.fromkeys(summary.policies):
        console.print(_labelled("policy", clean(policy)))
    _print_branches(console, summary)
    _print_findings(console, summary)
    metric = summary.score.metric if summary.score else summary.run.goal_metric
    for index, words in enumerate(model_report(summary.decision_costs)):
        console.print(_labelled("model" if index == 0 else "", Text(words, style="yellow")))
    told = [i for i in summary.interventions if i.state not in REFUSED]
    changes = [i for i in told if i.state in DONE and i.kind not in LOOKS]
    _print_changes(console, changes, all_unusable(summary.decision_costs))
    _print_others(console, "done", [i for i in told if i.state in DONE and i.kind in LOOKS])
    _print_others(console, "asked", [i for i in told if i.state not in DONE])
    for index, words in enumerate(summary.not_carried_out):
        console.print(_labelled("not done" if index == 0 else "", Text(f"plan: {clean(words)}", style="yellow")))
    _print_refusals(console, [i for i in summary.interventions if i.state in REFUSED])
    if summary.shadow is not None:
        print_shadow(console, summary.shadow, metric)
    for index, words in enumerate(cost_report(summary.cost, summary.decision_costs)):
        console.print(_labelled("cost" if index == 0 else "", words))
    if words := probe_line(summary.probing, summary.run.step):
        console.print(_labelled("probes", words))
    for note in summary.notes:
        console.print(_labelled("note", clean(note)))
    if words := _to_go_on(summary):
        _print_whole(console, "to go on", words)
    _print_whole(console, "log", str(Path(info.path).resolve() / LOG_NAME))


def _print_whole(console: Console, label: str, text: str) -> None:
    """Not in a grid: a path that is cut into lines cannot be copied."""
    console.print(Text.assemble((f"{label:<{LABEL_WIDTH}} ", "dim"), clean(text, PATH_CHARACTERS)), soft_wrap=True)


def _to_go_on(summary: RunSummary) -> str:
    """How a run that was stopped with a checkpoint can be gone on with, as its trainer said; empty for others."""
    said = [i.result.get("to_go_on") for i in summary.interventions if i.kind == "stop_training" and i.state in DONE]
    return str(said[-1]) if said and said[-1] and not summary.run.is_live else ""


def _labelled(label: str, text: str | Text) -> Table:
    """A line with a label in front; what does not fit goes on under its beginning."""
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(width=LABEL_WIDTH)
    grid.add_column(overflow="fold")
    grid.add_row(Text(clean(label, LABEL_WIDTH), style="dim"), Text(text) if isinstance(text, str) else text)
    return grid


def _headline(info: RunInfo, duration_s: float) -> Text:
    style = "bold red" if info.status in BAD_STATUS else "bold green"
    of = "" if info.max_steps is None else f" of {info.max_steps}"
    text = Text.assemble((clean(info.run_id), "bold"), " ", (info.status, style))
    if info.status_reason:
        text.append(f": {clean(info.status_reason)}")
    text.append(f"\n{'steps':<{LABEL_WIDTH}} ", style="dim")
    text.append(f"{info.step}{of} in {duration(duration_s)}")
    if info.is_live and info.pid is not None and not is_alive(info.pid, info.pid_started_s):
        text.append(f"\nits process {info.pid} is gone without having closed the log", style="bold red")
    return text


def _scores(score: Score | None, info: RunInfo) -> list[Table]:
    if score is None:
        return [_labelled("metric", "no loss was logged")]
    words = "less" if score.direction == "minimize" else "more"
    metric = clean(score.metric, 100)
    shown = [
        _labelled("goal", Text.assemble((metric, "bold"), f" ({words} is better)")),
        _labelled("", Text.assemble("final ", (_at(score.last), "bold"))),
        _labelled("", f"best  {_at(score.best)}"),
        _labelled("", f"first {_at(score.first)}"),
    ]
    if not is_goal(score.metric, info.goal_metric):
        shown.append(_labelled("", f"the goal that was set, {clean(info.goal_metric, 100)}, was never logged"))
    return shown


def _at(point: MetricAt) -> str:
    return f"{number(point.value)} at step {point.step}"


def _print_branches(console: Console, summary: RunSummary) -> None:
    """Only of a run that went back: one branch says nothing."""
    branches = summary.branches if len(summary.branches) > 1 else []
    left_out = max(0, len(branches) - SHOWN_BRANCHES)
    if left_out:
        console.print(_labelled("branches", f"{left_out} earlier ones, then"))
    for index, branch in enumerate(branches[left_out:]):
        console.print(_labelled("" if index or left_out else "branches", branch_words(branch)))


def _print_findings(console: Console, summary: RunSummary) -> None:
    for index, entry in enumerate(summary.findings):
        if index == SHOWN_FINDINGS:
            console.print(_labelled("", f"... and {len(summary.findings) - SHOWN_FINDINGS} more findings in the log"))
            return
        finding = entry.finding
        what = Text.assemble(
            f"step {finding.step} ",
            (finding.kind, SEVERITY_STYLE[finding.severity]),
            f": {clean(finding.summary)}",
        )
        console.print(_labelled("found" if index == 0 else "", what))


def _print_changes(console: Console, interventions: Sequence[Intervention], model_failed: bool = False) -> None:
    if not interventions:
        why = ", for no decision of the model could be used" if model_failed else ""
        console.print(_labelled("changed", f"nothing{why}"))
        return
    if console.width < TABLE_COLUMNS:
        for index, item in enumerate(interventions):
            _print_change(console, item, "changed" if index == 0 else "")
        return
    table = Table(title="What was changed, why, and what came of it", title_justify="left", title_style="bold")
    table.add_column("step", justify="right", no_wrap=True)
    for heading in ("by", "change", "why", "effect"):
        table.add_column(heading, overflow="fold")
    for item in interventions:
        table.add_row(
            _step(item),
            Text(clean(item.author, 30)),
            _change(item),
            Text(clean(item.rationale) or "-"),
            Text(_effect(item)),
        )
    console.print(table)


def _print_change(console: Console, item: Intervention, label: str) -> None:
    """One change on lines of its own, for a terminal in which a table would cut its facts to pieces."""
    what = Text.assemble((f"step {_step(item)} ", "bold"), _change(item), f", by {clean(item.author, 30)}")
    console.print(_labelled(label, what))
    if item.effect is not None or item.probation:
        console.print(_labelled("", f"effect: {_effect(item)}"))
    console.print(_labelled("", f"because {clean(item.rationale) or 'no reason was given'}"))


def _print_others(console: Console, label: str, interventions: Sequence[Intervention]) -> None:
    """What left the run as it was, a line each; the reason only where there is one."""
    for index, item in enumerate(interventions):
        why = f", because {clean(item.rationale)}" if item.rationale else ""
        what = Text.assemble((f"step {_step(item)} ", "bold"), _change(item), f", by {clean(item.author, 30)}{why}")
        console.print(_labelled(label if index == 0 else "", what))


def _step(item: Intervention) -> str:
    step = item.applied_at_step if item.applied_at_step is not None else item.proposed_at_step
    return "-" if step is None else str(step)


def _change(item: Intervention) -> Text:
    if item.state not in DONE:
        return Text(f"{item.kind}: {clean(item.summary)}", style="red")
    text = clean(item.summary)
    result = f": {clean(text, RESULT_CHARACTERS)}" if text not in DONE_WORDS else ""  # `applied` is no result
    done = text if " -> " in text else f"{item.kind}{result}"
    return Text(done + _edit(item))


def _edit(item: Intervention) -> str:
    if item.edited is None:
        return ""
    asked = command_words({"kind": item.kind, **item.arguments})
    return f" (edited by {clean(item.decided_by, 30)}; asked: {clean(asked)})"


def _effect(item: Intervention) -> str:
    effect = "-" if item.effect is None else clean(item.effect.words)
    return f"{effect}; {item.state.value}: {clean(item.probation)}" if item.probation else effect


def _print_refusals(console: Console, refused: Sequence[Intervention]) -> None:
    groups: dict[tuple[str, ...], list[Intervention]] = {}
    for item in refused:
        groups.setdefault((item.state.value, item.kind, item.author, item.decided_by), []).append(item)
    lines = [line for group in groups.values() for line in _refusals(group)]
    for index, line in enumerate(lines):
        console.print(_labelled("refused" if index == 0 else "", line))


def _refusals(group: Sequence[Intervention]) -> list[str]:
    """The lines of refusals of one kind."""
    if len(group) <= FOLDED_REFUSALS:
        return [_refusal(item) for item in group]
    return [f"{_refusal(group[0])} (and {len(group) - 1} more such)"]


def _refusal(item: Intervention) -> str:
    asked = f"{command_words({'kind': item.kind, **item.arguments})} (asked by {clean(item.author, 30)})"
    if item.decision in ("", "approved", "edited"):
        said = f"{item.decision} by {clean(item.decided_by)}" if item.decision else "never decided"
        return f"{asked} {said}, {clean(item.summary)}"
    word = "" if item.state is State.REJECTED else f" {item.state.value}"
    return f"{asked}{word} by {clean(item.decided_by)}: {clean(item.decision_reason)}"
