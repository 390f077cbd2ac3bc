"""Whatever stands in a log, a journal or a model's answer: on the terminal it is text, and moves no cursor."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from rich.console import Console

from agenttune.launch.study.report import print_study
from agenttune.launch.study.state import Reflection, RoundPlan, RoundRun, Study
from agenttune.protocol.model_calls import ToolUse
from agenttune.protocol.proposals import State
from agenttune.protocol.summary import Effect, Intervention, MetricAt, Score
from agenttune.replay.outcome import AppliedCommand, ReplayOutcome, Wanted
from agenttune.replay.replay import Replayed
from agenttune.replay.replay_screen import print_replay, print_transcripts
from agenttune.replay.transcripts import RecordedCall, RecordedDecision, Transcripts

EVIL = "e\x1b[2J\x9bv\u202ei\u200bl"
SHOWN = "e[2Jvil"


def shown(draw: Callable[[Console], None]) -> str:
    screen = io.StringIO()
    draw(Console(file=screen, width=300, color_system=None))
    return screen.getvalue()


def check(text: str, times: int) -> None:
    assert not set(text) & set("\x1b\x9b\u202e\u200b")
    assert text.count(SHOWN) >= times, "it is shown, without what cannot be seen"


def done(number: int) -> AppliedCommand:
    return AppliedCommand(step=number, kind="set_knob", summary=EVIL, author=EVIL)


def replayed(name: str) -> Replayed:
    wanted = Wanted(
        step=10, kind="set_knob", arguments={"name": EVIL}, rationale=name, refused=EVIL, shadow=True, done=[done(11)]
    )
    outcome = ReplayOutcome(
        recording=name,
        source="log",
        policy=name,
        first_step=1,
        last_step=20,
        every_steps=5,
        window_steps=5,
        decisions=3,
        wanted=[wanted],
        done=[done(12)],
        findings=[],
        duration_s=1.0,
        notes=[name],
    )
    return Replayed(outcome, None, [])


def test_a_replay() -> None:
    check(shown(lambda console: print_replay(console, replayed(EVIL))), 10)


def test_markup_is_text_too() -> None:
    name = "**a** | [b](http://c) <d> `e` [bold]f"
    assert shown(lambda console: print_replay(console, replayed(name))).count(name) == 4


@pytest.mark.parametrize("error", ["", EVIL])
def test_what_a_model_was_asked_and_answered(error: str) -> None:
    asked = Intervention(
        command_id="c",
        kind="set_knob",
        arguments={},
        summary=EVIL,
        author=EVIL,
        principal="agent",
        rationale="",
        proposed_at_step=10,
        state=State.KEPT,
        effect=Effect(verdict="not known", reason=EVIL),
    )
    decision = RecordedDecision(
        step=10, reason=EVIL, asked_for=[asked], shadowed=[{"kind": "set_knob", "name": EVIL, "value": 1}]
    )
    call = RecordedCall(
        seq=1,
        step=10,
        policy="p",
        purpose="decide",
        model=EVIL,
        asked=EVIL,
        sent_characters=9,
        answer=EVIL,
        tool_uses=[ToolUse(id="1", name=EVIL, arguments=EVIL)],
        error=error,
        decision=decision,
    )
    transcripts = Transcripts(run=EVIL, calls=[call], input_tokens=1, output_tokens=1, usd=None)
    check(shown(lambda console: print_transcripts(console, transcripts)), 7 if error else 9)


def test_a_study() -> None:
    at = MetricAt(step=1, value=1.0)
    score = Score(metric=EVIL, direction="minimize", first=at, best=at, last=at)
    run = {"policy": EVIL, "run_id": "r", "start": {EVIL: 0.1}, "args": [], "score": score}
    runs = [
        RoundRun(round=0, arm="untouched", outcome="finished", **run),
        RoundRun(round=0, arm="reference", outcome="failed", reason=EVIL, **run),
        RoundRun(round=1, arm="act", outcome="finished", **{**run, "score": None}),
        RoundRun(
            round=1,
            arm="plan_only",
            outcome="finished",
            **{**run, "score": score.model_copy(update={"metric": f"{EVIL}2"})},
        ),
    ]
    study = Study(
        study=EVIL,
        path="p",
        status="stopped",
        reason=EVIL,
        goal_metric=EVIL,
        goal_direction="minimize",
        count=1,
        settings={},
        runs=runs,
        plans=[RoundPlan(round=1, start={EVIL: 0.1}, chosen_by="model", reasoning=EVIL, refused=[EVIL])],
        reflections=[Reflection(round=1, text=EVIL)],
        notes=[EVIL],
        calls=1,
        tokens=1,
        usd=None,
    )
    check(shown(lambda console: print_study(console, study, reflections=True)), 18)
