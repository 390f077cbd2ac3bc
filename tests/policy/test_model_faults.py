"""A model whose answers cannot be used is told where it happens and in the report; "changed nothing" is not enough."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from agenttune.agent import AgentLoop
from agenttune.config import LlmSettings, WakeSettings
from agenttune.control import LocalControl
from agenttune.control.reader import ControlReader
from agenttune.policy.base import PolicyContext
from agenttune.policy.llm.llm_policy import LlmFile, LlmPolicy
from agenttune.protocol.events import Decided
from agenttune.store.run_log import run_folder
from agenttune.testing import ChatRequest, ScriptedEndpoint, Step, calls, fails, refuses, says
from agenttune.views.report import markdown, print_report, read_journal
from agenttune.views.terminal.plain import plain_line
from agenttune.views.terminal.run_feed import RunFeed
from tests.policy.conftest import SteeredRun

DECISIONS = 3
CUT = {"lr": 0.05, "reason": "the loss rose"}


def steer(
    run: SteeredRun, control: LocalControl, script: Callable[[ChatRequest], Step], supports: str | None = "tools"
) -> list[Decided]:
    """Let a model be asked a few times, by the real loop and over HTTP."""
    run.log.update_info(capabilities=["update_optimizer"])
    with ScriptedEndpoint(script, supports=supports) as endpoint:  # type: ignore[arg-type]
        llm = LlmSettings(model="m", base_url=endpoint.base_url, max_attempts=1)
        context = PolicyContext(llm=llm, reader=ControlReader(control, "r1"), environ={})
        file = LlmFile(type="llm", every_steps=1, early_every_steps=1)
        wake = WakeSettings(every_steps=10, stall_after_s=1e9)
        loop = AgentLoop(control, "r1", LlmPolicy("llm", file, context), wake, clock_s=lambda: 0.0)
        for _ in range(DECISIONS):
            for _ in range(10):
                run.step()
            loop.tick()
    return [event.body for event in control.events("r1") if isinstance(event.body, Decided)]


def report(run: SteeredRun, width: int = 400) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w", encoding="utf-8"))  # noqa: SIM115
    print_report(console, read_journal(run.log))
    return console.export_text()


def live_lines(runs_dir: Path) -> list[str]:
    feed = RunFeed(run_folder(runs_dir, "r1"))
    try:
        return [plain_line(line) for line in [*feed.read(), *feed.rest()]]
    finally:
        feed.close()


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (says('<tool_call>{"name": "update_optimizer", "argu'), "given up after 2 corrections: your tool calls could"),
        (says("<think>hm, perhaps"), "given up after 2 corrections: your tool calls could not be read"),
        (calls(("reboot", {})), "given up after 2 corrections: ERROR in reboot"),
        (refuses("I may not."), "the model refused: I may not."),
        (fails(400, "no such deployment"), "no such deployment"),
    ],
    ids=["malformed", "thinking", "wrong tool", "refusal", "error"],
)
def test_decisions_of_no_use_are_counted_and_their_reason_is_told(
    run: SteeredRun, control: LocalControl, runs_dir: Path, step: Step, words: str
) -> None:
    decided = steer(run, control, lambda request: step)
    asked = [body for body in decided if body.unusable]
    assert asked
    assert all(words in body.reason and words in body.faults[-1] for body in asked)
    first, *further = [line for line in live_lines(runs_dir) if " unusable: " in line]
    assert words in first
    more = len(asked) - 1
    said = [f"unusable: ({more} time{'s' * (more != 1)} more)"] if more else []
    assert [line[line.index("unusable: ") :].split(" [")[0] for line in further] == said
    told = report(run)
    count = f"{len(asked)} of {len(asked)} decision"
    assert count in told
    assert words in told
    assert "Nothing was changed, for no decision of the model could be used." in told
    page = markdown(read_journal(run.log))
    assert count in page
    assert "The language model was of no use" in page


def test_a_fall_from_tools_and_what_was_refused_on_the_way_are_told(
    run: SteeredRun, control: LocalControl, runs_dir: Path
) -> None:
    wrong = {"tool": "reboot", "arguments": {}}
    right = {"tool": "update_optimizer", "arguments": CUT}
    answers = iter([json.dumps({"reason": "It rose.", "actions": [action]}) for action in (wrong, right)])
    decided = steer(
        run, control, lambda request: says(next(answers, '{"reason": "fine", "actions": []}')), supports="text"
    )
    first = decided[0]
    assert first.command_ids
    assert not first.unusable
    assert "neither tool calls nor a JSON schema" in first.faults[0]
    assert "refused: ERROR in reboot" in first.faults[1]
    assert not any(body.faults for body in decided[1:])
    assert any(" model: llm: the endpoint takes neither" in line for line in live_lines(runs_dir))
    told = report(run)
    assert "the endpoint takes neither tool calls nor a JSON schema" in told
    assert "unusable" not in told


def test_a_log_of_before_has_no_faults() -> None:
    old = Decided.model_validate({"kind": "decided", "policy": "llm", "woken_by": "x"})
    assert (old.faults, old.unusable) == ([], False)
