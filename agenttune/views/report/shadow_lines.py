"""The report on a policy in shadow: what it would have done, beside what was done."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from agenttune.protocol.summary import ShadowedProposal, ShadowScore
from agenttune.protocol.text import clean, number
from agenttune.views.event_lines import command_words

SHOWN_PROPOSALS = 20
"""The first ones; a policy in shadow repeats itself, for nothing that it asks for happens."""
STYLES = {"agreed": "green", "opposed": "red", "alone": "yellow"}


def print_shadow(console: Console, score: ShadowScore, metric: str) -> None:
    """Show how a policy in shadow would have done."""
    table = Table(
        title=f"In shadow: what was not done, beside the {score.window_steps} steps after it",
        title_justify="left",
        title_style="bold",
    )
    table.add_column("step", justify="right", no_wrap=True)
    for heading in ("would have asked", "hindsight", "done", clean(metric, 30)):
        table.add_column(heading, overflow="fold")
    for proposal in score.proposals[:SHOWN_PROPOSALS]:
        table.add_row(*_row(proposal))
    console.print(table)
    left_out = len(score.proposals) - SHOWN_PROPOSALS
    console.print(Text(_totals(score) + (f"; {left_out} more in --json" if left_out > 0 else "")))


def _row(proposal: ShadowedProposal) -> tuple[Text, ...]:
    before, after = ("-" if m is None else number(m.value) for m in (proposal.metric_before, proposal.metric_after))
    critical = " (critical finding)" if proposal.critical_after else ""
    return (
        Text(str(proposal.step)),
        Text(clean(command_words({"kind": proposal.kind, **proposal.arguments}))),
        Text(proposal.hindsight, style=STYLES[proposal.hindsight]),
        Text(clean(proposal.done) or "nothing"),
        Text(f"{before} -> {after}{critical}"),
    )


def _totals(score: ShadowScore) -> str:
    critical = f" ({score.alone_before_critical} before a critical finding)" if score.alone_before_critical else ""
    return f"in shadow: {score.agreed} agreed, {score.opposed} opposed, {score.alone} alone{critical}"
