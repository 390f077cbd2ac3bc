"""A replay on the terminal: the curve with its marks, then what the policy would have done, and what was done."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from agenttune.protocol.text import clean, command_words, dollars, duration, number
from agenttune.replay.outcome import AppliedCommand, Around, Replay, Wanted
from agenttune.replay.replay import Replayed
from agenttune.replay.transcripts import RecordedCall, Transcripts
from agenttune.views.terminal.chart import Marks, loss_chart

CHART_HEIGHT, CHART_WIDTH = 14, 100
WANTED_MARK, DONE_MARK = "P", "X"
WANTED_COLOUR, DONE_COLOUR = "red+", "green+"
MOST_LINES = 60
"""Proposals that are listed; --json has all of them."""


def print_replay(console: Console, replayed: Replayed) -> None:
    """Show a replay."""
    outcome = replayed.outcome
    marks = [
        Marks([item.step for item in outcome.done], DONE_MARK, DONE_COLOUR),
        Marks([item.step for item in outcome.wanted], WANTED_MARK, WANTED_COLOUR),
    ]
    console.print(_head(outcome), soft_wrap=True)
    width = min(CHART_WIDTH, console.width)
    console.print(loss_chart(replayed.curve, replayed.evaluations, width, CHART_HEIGHT, marks))
    console.print(
        Text(f"{WANTED_MARK} the policy would have acted; {DONE_MARK} something was really done", style="dim")
    )
    _print_wanted(console, outcome)
    _print_done(console, outcome)
    for note in outcome.notes:
        console.print(Text(f"note: {clean(note, 1000)}", style="dim"), soft_wrap=True)


def _head(outcome: Replay) -> Text:
    steps = f"steps {outcome.first_step} to {outcome.last_step}"
    asked = f"asked {outcome.decisions} times in {duration(outcome.duration_s)}"
    cost = "" if not outcome.calls else f", {outcome.calls} calls of a language model, {_money(outcome.usd)}"
    policy = (clean(outcome.policy), "bold magenta")
    return Text.assemble((clean(outcome.recording), "bold"), f", {steps}: policy ", policy, f" {asked}{cost}")


def _money(usd: float | None) -> str:
    return "price unknown" if usd is None else dollars(usd)


def _print_wanted(console: Console, outcome: Replay) -> None:
    if not outcome.wanted:
        console.print("It would have done nothing.")
        return
    table = Table(title="What it would have done", title_justify="left", title_style="bold")
    table.add_column("step", justify="right", no_wrap=True)
    for heading in ("command", "why", f"really, within {outcome.window_steps} steps"):
        table.add_column(heading, overflow="fold")
    for item in outcome.wanted[:MOST_LINES]:
        table.add_row(str(item.step), _command(item), Text(clean(item.rationale)), _really(item))
    console.print(table)
    if len(outcome.wanted) > MOST_LINES:
        console.print(f"and {len(outcome.wanted) - MOST_LINES} more; --json lists all of them")


def _command(item: Wanted) -> Text:
    text = Text(clean(command_words({"kind": item.kind, **item.arguments})))
    if item.shadow:
        text.append(" (in shadow)", style="dim")
    if item.refused:
        text.append(f" (refused by {clean(item.refused)})", style="yellow")
    return text


def _really(item: Wanted) -> Text:
    what = "; ".join(_told(done) for done in item.done) or "nothing was done"
    return Text(f"{what}. {_around(item.around)}".strip(" ."))


def _told(done: AppliedCommand) -> str:
    return f"step {done.step}: {clean(done.summary)} by {clean(done.author, 30)}"


def _around(around: Around) -> str:
    pairs = (("loss", around.loss, around.loss_after), ("lr", around.lr, around.lr_after))
    shown = [f"{name} {number(a)} -> {number(b)}" for name, a, b in pairs if a is not None and b is not None]
    return ", ".join(shown)


def _print_done(console: Console, outcome: Replay) -> None:
    if not outcome.done:
        console.print("In the recorded run nothing was done." if outcome.source == "log" else _unknown(outcome))
        return
    shared = sum(item.proposed_at_step is not None for item in outcome.done)
    console.print(Text(f"Of {len(outcome.done)} commands really applied, it would have given {shared} too:"))
    for item in outcome.done:
        also = "not proposed" if item.proposed_at_step is None else f"proposed at step {item.proposed_at_step}"
        console.print(Text(f"  {_told(item)} ({also})"), soft_wrap=True)


def _unknown(outcome: Replay) -> str:
    return f"What was changed by hand in that run is not recorded in {outcome.source.replace('_', ' ')} files."


def print_transcripts(console: Console, transcripts: Transcripts) -> None:
    """Show the calls of a run."""
    console.print(
        Text.assemble(
            (clean(transcripts.run), "bold"),
            f": {len(transcripts.calls)} calls, {transcripts.input_tokens} tokens in, "
            f"{transcripts.output_tokens} out, {_money(transcripts.usd)}",
        ),
        soft_wrap=True,
    )
    table = Table()
    table.add_column("step", justify="right", no_wrap=True)
    for heading in ("asked", "answered", "cost", "decided, and what came of it"):
        table.add_column(heading, overflow="fold")
    for call in transcripts.calls:
        step = "-" if call.step is None else str(call.step)
        table.add_row(step, _asked(call), _answered(call), _cost(call), Text("\n".join(_decided(call)) or "-"))
    console.print(table)


def _asked(call: RecordedCall) -> Text:
    return Text(f"{call.purpose} ({clean(call.model, 40)}): {clean(call.asked, 200)}")


def _answered(call: RecordedCall) -> Text:
    if call.error:
        return Text(clean(call.error), style="red")
    uses = [f"{use.name} {use.arguments}" for use in call.tool_uses]
    return Text(clean(" ".join([call.answer, *uses])) or "nothing")


def _cost(call: RecordedCall) -> Text:
    tokens = "" if call.usage is None else f"{call.usage.total_tokens} tokens, "
    return Text(f"{tokens}{_money(call.usd)}, {duration(call.latency_s)}")


def _decided(call: RecordedCall) -> Sequence[str]:
    if call.decision is None:
        return []
    lines = [clean(call.decision.reason)] if call.decision.reason else []
    for item in call.decision.asked_for:
        effect = f"; effect {clean(item.effect.words)}" if item.effect is not None else ""
        lines.append(f"{item.kind} {item.state.value}: {clean(item.summary)}{effect}")
    return lines + [f"in shadow: {clean(command_words(command))}" for command in call.decision.shadowed]
