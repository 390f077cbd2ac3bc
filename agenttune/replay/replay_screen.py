"""A replay on the terminal: the curve with its marks, then what the policy would have done, and what was done."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console

from agenttune.protocol.commands import recorded_words
from agenttune.protocol.text import MAX_CHARACTERS, cut, dollars, duration, number
from agenttune.replay.outcome import AppliedCommand, RecordedAround, ReplayOutcome, Wanted
from agenttune.replay.replay import Replayed
from agenttune.replay.transcripts import RecordedCall, Transcripts
from agenttune.views.report.markdown import escaped, listed, table
from agenttune.views.report.terminal import print_markdown
from agenttune.views.terminal.chart import Marks, loss_chart

CHART_HEIGHT, CHART_WIDTH = 14, 100
WANTED_MARK, DONE_MARK = "P", "X"
WANTED_COLOUR, DONE_COLOUR = "red+", "green+"
MOST_LINES = 60
"""Proposals that are listed; --json has all of them."""
CELL_CHARACTERS = 4 * MAX_CHARACTERS


def print_replay(console: Console, replayed: Replayed) -> None:
    """Show a replay."""
    outcome = replayed.outcome
    marks = [
        Marks([item.step for item in outcome.done], DONE_MARK, DONE_COLOUR),
        Marks([item.step for item in outcome.wanted], WANTED_MARK, WANTED_COLOUR),
    ]
    print_markdown(console, _head(outcome))
    width = min(CHART_WIDTH, console.width)
    console.print(loss_chart(replayed.curve, replayed.evaluations, width, CHART_HEIGHT, marks))
    legend = f"{WANTED_MARK} the policy would have acted; {DONE_MARK} something was really done"
    notes = [f"note: {escaped(note)}" for note in outcome.notes]
    print_markdown(console, "\n\n".join([legend, *_wanted(outcome), *_done(outcome), *notes]))


def _head(outcome: ReplayOutcome) -> str:
    steps = f"steps {outcome.first_step} to {outcome.last_step}"
    asked = f"asked {outcome.decisions} times in {duration(outcome.duration_s)}"
    cost = "" if not outcome.calls else f", {outcome.calls} calls of a language model, {dollars(outcome.usd)}"
    return f"**{escaped(outcome.recording)}**, {steps}: policy **{escaped(outcome.policy)}** {asked}{escaped(cost)}"


def _wanted(outcome: ReplayOutcome) -> Iterator[str]:
    if not outcome.wanted:
        yield "It would have done nothing."
        return
    yield "## What it would have done"
    head = f"| step | command | why | really, within {outcome.window_steps} steps |\n|--:|---|---|---|"
    yield table((_cells(i.step, _command(i), i.rationale, _really(i)) for i in outcome.wanted[:MOST_LINES]), head)
    if len(outcome.wanted) > MOST_LINES:
        yield f"and {len(outcome.wanted) - MOST_LINES} more; --json lists all of them"


def _cells(*parts: object) -> list[str]:
    return [escaped(str(part), CELL_CHARACTERS) for part in parts]


def _command(item: Wanted) -> str:
    refused = f" (refused by {item.refused})" if item.refused else ""
    return f"{recorded_words({'kind': item.kind, **item.arguments})}{' (in shadow)' if item.shadow else ''}{refused}"


def _really(item: Wanted) -> str:
    what = "; ".join(_told(done) for done in item.done) or "nothing was done"
    return f"{what}. {_around(item.around)}".strip(" .")


def _told(done: AppliedCommand) -> str:
    return f"step {done.step}: {cut(done.summary, MAX_CHARACTERS)} by {cut(done.author, 30)}"


def _around(around: RecordedAround) -> str:
    pairs = (("loss", around.loss, around.loss_after), ("lr", around.lr, around.lr_after))
    shown = [f"{name} {number(a)} -> {number(b)}" for name, a, b in pairs if a is not None and b is not None]
    return ", ".join(shown)


def _done(outcome: ReplayOutcome) -> Iterator[str]:
    if not outcome.done:
        source = outcome.source.replace("_", " ")
        unknown = f"What was changed by hand in that run is not recorded in {source} files."
        yield "In the recorded run nothing was done." if outcome.source == "log" else unknown
        return
    shared = sum(item.proposed_at_step is not None for item in outcome.done)
    yield f"Of {len(outcome.done)} commands really applied, it would have given {shared} too:"
    also = (
        "not proposed" if i.proposed_at_step is None else f"proposed at step {i.proposed_at_step}" for i in outcome.done
    )
    yield listed(
        [f"{_told(item)} ({words})" for item, words in zip(outcome.done, also, strict=True)], len(outcome.done)
    )


def print_transcripts(console: Console, transcripts: Transcripts) -> None:
    """Show the calls of a run."""
    cost = f"{transcripts.output_tokens} out, {escaped(dollars(transcripts.usd))}"
    head = f"{len(transcripts.calls)} calls, {transcripts.input_tokens} tokens in, {cost}"
    columns = "| step | asked | answered | cost | decided, and what came of it |\n|--:|---|---|---|---|"
    rows = (
        _cells("-" if call.step is None else call.step, _asked(call), _answered(call), _cost(call), _decided(call))
        for call in transcripts.calls
    )
    print_markdown(console, f"**{escaped(transcripts.run)}**: {head}\n\n{table(rows, columns)}")


def _asked(call: RecordedCall) -> str:
    return f"{call.purpose} ({cut(call.model, 40)}): {cut(call.asked, 200)}"


def _answered(call: RecordedCall) -> str:
    uses = [f"{use.name} {use.arguments}" for use in call.tool_uses]
    return cut(call.error or " ".join([call.answer, *uses]), MAX_CHARACTERS) or "nothing"


def _cost(call: RecordedCall) -> str:
    tokens = "" if call.usage is None else f"{call.usage.total_tokens} tokens, "
    return f"{tokens}{dollars(call.usd)}, {duration(call.latency_s)}"


def _decided(call: RecordedCall) -> str:
    if call.decision is None:
        return "-"
    told = [cut(call.decision.reason, MAX_CHARACTERS)] if call.decision.reason else []
    for item in call.decision.asked_for:
        effect = f"; effect {item.effect.words}" if item.effect is not None else ""
        told.append(f"{item.kind} {item.state.value}: {cut(item.summary, MAX_CHARACTERS)}{effect}")
    return "; ".join([*told, *(f"in shadow: {recorded_words(command)}" for command in call.decision.shadowed)]) or "-"
