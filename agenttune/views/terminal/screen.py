"""The live screen: header, progress, loss curve, figures, and the newest lines of the log."""

from __future__ import annotations

import textwrap
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from agenttune.gate.approval_description import describe, headline
from agenttune.protocol.deadlines import Instant, boot_time, now_for
from agenttune.protocol.summary import MetricAt
from agenttune.protocol.text import clean, duration, number
from agenttune.views.event_lines import BAD_STATUS, EventLine
from agenttune.views.terminal.approval_keys import ApprovalPrompt, Asked
from agenttune.views.terminal.chart import MIN_HEIGHT, Marks, loss_chart
from agenttune.views.terminal.keys import Keys, NoKeys
from agenttune.views.terminal.run_feed import RunFeed, RunSnapshot

KEPT_LINES = 200
MAX_HEIGHT = 34
"""Rows that it takes at most; on a taller terminal the earlier output stays visible."""
SIDE_BY_SIDE = 70
"""From this width on, the figures stand beside the curve; on narrower terminals below it."""
FIGURES_WIDTH = 31
MAX_CHART_HEIGHT = 14
ROOMY = 18
"""With at least this many rows to spare, the line above stays visible (tried by eye at 80x24)."""
MARK_WIDTH = 9
MAX_ROWS = 3
"""Of one line of the list; a longer reason is in the report."""
LOOKING_S, TYPING_S = 0.25, 0.05
"""Seconds between two frames: smooth to the eye and under 1 % of one core (measured); faster while a person types."""
LABEL_WIDTH = 11
QUIET_AFTER_S = 5.0
"""After so long without a step, the measured speed is not shown."""


@dataclass(frozen=True)
class Frame:
    """One picture of the screen; lays itself out for the size it is drawn at."""

    now: RunSnapshot
    lines: Sequence[EventLine]
    subject: str
    url: str
    at_s: float
    asked: Asked | None = None
    said: str = ""
    above: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        room = console.size.height - 1
        kept = -(-len(self.above) // max(1, options.max_width))  # rows that the terminal folds it into
        yield _layout(self, options.max_width, min(room - kept if room - kept >= ROOMY else room, MAX_HEIGHT))


class LiveScreen:
    """Redraws a frame at every refresh.

    Args:
        console: A terminal.
        feed: The run.
        subject: What runs.
        url: Of the control server.
        clock: Unix time in seconds.
        approvals: What waits for a person.
        keys: What that person presses.
        above: The line printed just before, such as the link to the run's page: it stays in sight while there is room.
    """

    def __init__(
        self,
        console: Console,
        feed: RunFeed,
        subject: str,
        url: str,
        clock: Callable[[], float] = time.time,
        approvals: ApprovalPrompt | None = None,
        keys: Keys | NoKeys | None = None,
        above: str = "",
    ) -> None:
        self._feed, self._approvals, self._keys = feed, approvals, keys or NoKeys()
        self._subject, self._url, self._clock, self._above = subject, url, clock, above
        self._lines: deque[EventLine] = deque(maxlen=KEPT_LINES)
        self._live = Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        self._live.start()

    @property
    def patience_s(self) -> float:
        """How long to wait before the next refresh."""
        return TYPING_S if self._approvals is not None and self._approvals.is_typing else LOOKING_S

    def refresh(self) -> None:
        typed = self._keys.read()
        if self._approvals is not None:
            self._approvals.refresh(typed)
            self._feed.look_around(self._approvals.asked.request.step if self._approvals.asked else None)
        self._lines.extend(self._feed.read())
        self._live.update(self.frame(), refresh=True)

    def frame(self) -> Frame:
        asked, said = (self._approvals.asked, self._approvals.said) if self._approvals is not None else (None, "")
        return Frame(
            self._feed.now, list(self._lines), self._subject, self._url, self._clock(), asked, said, self._above
        )

    def notice(self, text: str) -> None:
        self._lines.append(EventLine(self._clock(), None, "agenttune", clean(text), "bold cyan"))
        self._live.update(self.frame(), refresh=True)

    def close(self) -> None:
        try:
            self.refresh()
            self._lines.extend(self._feed.rest())
            self._live.update(self.frame(), refresh=True)
        finally:
            self._keys.close()
            self._live.stop()
            self._feed.close()


def _layout(frame: Frame, width: int, height: int) -> RenderableType:
    head = [_title(frame, width), _subtitle(frame, width), _progress(frame, width)]
    figures = _figures(frame.now)
    left = height - len(head) - 1
    marks = [] if frame.asked is None else [Marks([frame.asked.request.step], "?", "yellow+")]
    if width >= SIDE_BY_SIDE and left >= 2 * len(figures):
        chart_height = max(len(figures), min(MAX_CHART_HEIGHT, left * 9 // 20))
        body, used = [_side_by_side(frame.now, figures, width, chart_height, marks)], chart_height
    else:
        body, used = _stacked(frame.now, figures, width, left, marks)
    rest = max(0, left - used)
    request = request_rows(frame, width, rest)
    lines = _newest(frame.lines, width, max(0, rest - len(request)))
    return Group(*head, *body, Text("─" * width, style="dim"), *request, *lines)


def _cut(text: Text, width: int) -> Text:
    text.truncate(width, overflow="ellipsis")
    text.no_wrap = True
    return text


def _title(frame: Frame, width: int) -> Text:
    info = frame.now.info
    style = "bold red" if info.status in BAD_STATUS else "bold green"
    text = Text.assemble((clean(info.run_id, 60), "bold"), "  ", (info.status, style), "  ", ("policy ", "dim"))
    text.append(clean(frame.now.policy, 40) or "not attached yet")
    return _cut(text, width)


def _subtitle(frame: Frame, width: int) -> Text:
    url = frame.url
    text = Text(clean(frame.subject), style="dim")
    text.truncate(max(10, width - len(url) - 2), overflow="ellipsis")
    text.append("  " + url, style="dim cyan")
    return _cut(text, width)


def _progress(frame: Frame, width: int) -> RenderableType:
    now = frame.now
    total = now.info.max_steps
    words = _progress_words(frame)
    if total is None:
        return _cut(Text(f"step {now.info.step}  {words}"), width)
    percent = f"{100 * now.info.step // max(total, 1)}%"
    line = Table.grid(padding=(0, 1))
    line.add_row(
        ProgressBar(total=max(total, 1), completed=min(now.info.step, total), width=max(8, width - len(words) - 24)),
        Text(f"{now.info.step}/{total}", style="bold", no_wrap=True),
        Text(percent, no_wrap=True),
        Text(words, style="dim", no_wrap=True, overflow="ellipsis"),
    )
    return line


def _progress_words(frame: Frame) -> str:
    now = frame.now
    if not now.info.is_live:
        return "ended"
    if now.last_step_at_s is None:
        return "waiting for the first step"
    quiet_s = frame.at_s - now.last_step_at_s
    if quiet_s > QUIET_AFTER_S:
        return f"no step for {duration(quiet_s)}"
    speed = f"{now.steps_per_s:.3g} steps/s" if now.steps_per_s else ""
    return speed if now.seconds_left is None else f"{speed}  {duration(now.seconds_left)} left"


def _figures(now: RunSnapshot) -> list[tuple[str, str]]:
    """Name and value of what is worth a look, one row each."""
    goal = now.info.goal_metric
    return [
        ("loss", _value(now.loss)),
        (clean(goal, 16), _value(now.goal_last)),
        ("  best", "-" if now.goal_best is None else f"{number(now.goal_best.value)} at {now.goal_best.step}"),
        ("lr", _number(now.lr)),
        ("  base", _number(now.base_lr)),
        ("grad norm", _number(now.grad_norm)),
        ("applied", f"{now.applied} command{'' if now.applied == 1 else 's'}"),
    ]


def _value(metric: MetricAt | None) -> str:
    return "-" if metric is None else number(metric.value)


def _number(value: float | None) -> str:
    return "-" if value is None else number(value)


def _side_by_side(
    now: RunSnapshot, figures: Sequence[tuple[str, str]], width: int, height: int, marks: Sequence[Marks]
) -> RenderableType:
    grid = Table.grid(padding=(0, 1))
    chart_width = width - FIGURES_WIDTH - 2
    grid.add_column(width=chart_width)
    grid.add_column(width=FIGURES_WIDTH)
    chart = loss_chart(now.curve, _within(now), chart_width, height, marks)
    grid.add_row(chart, _figure_table(figures))
    return grid


def _stacked(
    now: RunSnapshot, figures: Sequence[tuple[str, str]], width: int, left: int, marks: Sequence[Marks]
) -> tuple[list[RenderableType], int]:
    """The curve with the figures as running text below it, as far as there is room; and how many rows that is."""
    rows = Text("  ".join(f"{name.strip()} {value}" for name, value in figures)).wrap(Console(), width)[: left // 3]
    height = min(MAX_CHART_HEIGHT, (left - len(rows)) // 2)
    if height < MIN_HEIGHT:
        return list(rows), len(rows)
    return [loss_chart(now.curve, _within(now), width, height, marks), *rows], height + len(rows)


def _within(now: RunSnapshot) -> list[MetricAt]:
    """The evaluations of the steps that the curve shows."""
    first = now.curve.steps[0] if now.curve is not None and now.curve.steps else 0
    return [evaluation for evaluation in now.evaluations if evaluation.step >= first]


def _figure_table(figures: Sequence[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 1))
    for name, value in figures:
        table.add_row(Text(name, style="dim"), Text(value, style="bold", no_wrap=True, overflow="ellipsis"))
    return table


def _newest(lines: Sequence[EventLine], width: int, height: int) -> list[Text]:
    """The newest lines that fit, oldest first; long ones take up to three rows."""
    rows: list[Text] = []
    for line in reversed(lines):
        own = _rows_of(line, width)
        if len(rows) + len(own) > height:
            return rows
        rows = [*own, *rows]
    return rows


def _rows_of(line: EventLine, width: int) -> list[Text]:
    step = "" if line.step is None else str(line.step)
    head = Text.assemble((f"{step:>6} ", "dim"), (clean(line.mark, MARK_WIDTH).ljust(MARK_WIDTH + 1), line.style))
    wrapped = textwrap.wrap(line.text, max(10, width - len(head)), max_lines=MAX_ROWS, placeholder=" …") or [""]
    rows = [head + wrapped[0], *(Text(" " * len(head) + more) for more in wrapped[1:])]
    return [_cut(row, width) for row in rows]


def request_rows(frame: Frame, width: int, height: int) -> list[Text]:
    """What waits for a person, the keys below it, and what came of the last one; as far as there is room."""
    words = textwrap.wrap(frame.said, max(10, width - 2), max_lines=MAX_ROWS, placeholder=" …")
    said = [_cut(Text(f"  {row}", style="bold cyan"), width) for row in words]
    asked = frame.asked
    if asked is None:
        return said[:height]
    at_s = now_for(asked.request, Instant(frame.at_s, boot_time()))
    title = textwrap.wrap(headline(asked.record, at_s), max(10, width - 4), max_lines=MAX_ROWS)
    head = [Text.assemble((" ? ", "black on yellow"), " ", (title[0], "bold yellow"))]
    head += [Text(f"    {more}", style="bold yellow") for more in title[1:]]
    described = describe(asked.record, asked.request, frame.now.info, at_s, frame.now.steps_per_s)
    rows = [row for label, text in described.lines() for row in _part_rows(label, text, width)]
    foot = [*said, *(_cut(row, width) for row in _prompt(asked, width))]
    return [*(_cut(row, width) for row in head), *rows[: max(0, height - len(head) - len(foot))], *foot][:height]


def _part_rows(label: str, text: str, width: int) -> list[Text]:
    wrapped = textwrap.wrap(text, max(10, width - LABEL_WIDTH), max_lines=MAX_ROWS, placeholder=" …") or [""]
    head = Text.assemble((label.rjust(LABEL_WIDTH - 1) + " ", "dim"), wrapped[0])
    return [_cut(head, width), *(_cut(Text(" " * LABEL_WIDTH + more), width) for more in wrapped[1:])]


def _prompt(asked: Asked, width: int) -> list[Text]:
    kind = asked.record.proposal.command.kind
    if asked.mode == "choose":
        more = f"   ({asked.others} more)" if asked.others else ""
        keys = (("y", "yes"), ("n", "no"), ("e", "edit"), ("a", f"always for {kind} in this run"))
        pairs = [part for key, what in keys for part in ((f" {key} ", "black on white"), f" {what}  ")]
        return [Text.assemble(*pairs, (more, "dim"))]
    name = asked.editable.name
    question = "reason (may be empty):" if asked.mode == "reason" else f"run it with {name}=" if name else "run it with"
    shown = asked.typed[-max(8, width - len(question) - 6) :]
    # What we offer looks marked, as in a browser's address line: the first key replaces it.
    style = "reverse" if asked.field.is_offered else ""
    gap = "" if question.endswith("=") else " "
    return [Text.assemble((f" {question}{gap}", "bold"), (shown, style), ("▏", "bold")), _HINT]


_HINT = Text("  Enter sends, Esc back, Ctrl-U clears", style="dim")
