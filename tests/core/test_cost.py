"""What language models cost, as a run's log has it: added up, said where it is not known, and shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agenttune.protocol.events import Decided, NoteAdded
from agenttune.protocol.model_calls import ChatMessage, Cost, ModelCalled, Usage
from agenttune.protocol.text import dollars, tokens
from agenttune.store.journal.run_summary import summarize
from agenttune.store.run_log import RunLog
from agenttune.views.report.cost_lines import cost_report, cost_words
from agenttune.views.terminal.run_feed import RunFeed
from tests.core.conftest import APPROVED, propose


def call(input_tokens: int = 1000, output_tokens: int = 50, usd: float | None = 0.01, **fields: Any) -> ModelCalled:
    usage = Usage(input_tokens=input_tokens, cached_input_tokens=input_tokens // 2, output_tokens=output_tokens)
    made: dict[str, Any] = {
        "policy": "llm",
        "purpose": "decide",
        "model": "gpt-x",
        "endpoint": "http://127.0.0.1:1",
        "protocol": "tools",
        "answer": ChatMessage(role="assistant", content="hold"),
        "usage": usage,
        "usd": usd,
        "latency_s": 2.0,
    }
    return ModelCalled.model_validate(made | fields)


FAILED: dict[str, Any] = {"error": "no answer", "answer": None, "usage": None, "usd": None, "latency_s": 60.0}


def decided(step: int) -> Decided:
    return Decided(policy="default", woken_by="20 steps", reason="nothing to do", based_on_step=step)


def test_a_run_without_calls_costs_nothing(log: RunLog) -> None:
    log.append(decided(20), step=20)
    summary = summarize(log)
    assert summary.cost == Cost()
    assert summary.decision_costs == []
    assert cost_report(summary.cost, summary.decision_costs) == []


def test_calls_are_added_up_by_run_and_by_decision(log: RunLog) -> None:
    log.append(call(), call(3000, 150, 0.03), decided(20), step=25)
    log.append(decided(40), step=40)
    log.append(call(**FAILED), step=60)
    log.append(decided(60), step=60)
    log.append(call(500, 10, 0.005, purpose="reflect"), step=80)
    summary = summarize(log)
    cost = summary.cost
    assert (cost.calls, cost.failed_calls) == (4, 1)
    assert (cost.input_tokens, cost.cached_input_tokens, cost.output_tokens) == (4500, 2250, 210)
    assert cost.usd == pytest.approx(0.045)
    assert cost.mean_latency_s == 2.0, "a call that failed says nothing of how long an answer takes"
    assert [(d.step, d.cost.calls, d.cost.tokens) for d in summary.decision_costs] == [(20, 2, 4200), (60, 1, 0)]
    assert cost_report(cost, summary.decision_costs) == [
        "4 calls (1 failed) of gpt-x: $0.045, 2.0 s a call",
        "4.5k tokens in (2.25k cached), 210 out",
        "2 decisions by language models: 2.1k tokens, $0.02 each, the dearest 4.2k tokens",
    ]


def test_an_unknown_price_is_said_and_not_guessed() -> None:
    mixed = Cost.of([call(), call(model="home-made", usd=None)])
    assert mixed.unpriced == ["home-made"]
    assert cost_words(mixed) == "2 calls, 2.1k tokens, $0.01 + unknown price of home-made"
    assert cost_words(Cost.of([call(usd=None)])) == "1 call, 1.05k tokens, unknown price of gpt-x"
    uncounted = Cost.of([call(usage=None, usd=None)])
    assert uncounted.uncounted_calls == 1
    assert "tokens not told" in cost_words(uncounted)


def test_a_failed_call_without_tokens_hides_no_price() -> None:
    cost = Cost.of([call(**FAILED), call()])
    assert cost.unpriced == []
    assert cost_words(cost) == "2 calls, 1 failed, 1.05k tokens, $0.01"


@pytest.mark.parametrize(("usd", "said"), [(0, "$0"), (0.00213, "$0.0021"), (0.5, "$0.5"), (12.345, "$12.35")])
def test_money_in_words(usd: float, said: str) -> None:
    assert dollars(usd) == said


def test_tokens_in_words() -> None:
    assert [tokens(n) for n in (0, 999, 5310, 1_234_567)] == ["0", "999", "5.31k", "1.23M"]


def test_what_is_said_at_every_look_is_told_once_and_counted_with_its_cost(log: RunLog, folder: Path) -> None:
    """Seen before: 6 to 12 lines of one outage, and 56 of 300 letters each from a model that answered in words."""
    feed = RunFeed(folder)
    for left in (28, 20.5, 9, 1):
        log.append(call(), Decided(policy="llm", woken_by="x", reason=f"held; it is left alone for {left} s more"))
        log.append(NoteAdded(text=f"{left} to go", author="me"))
    told = [f"{line.mark}: {line.text}" for line in feed.read()]
    assert told[0] == "held: llm: held; it is left alone for 28 s more [1 call, 1.05k tokens, $0.01]"
    assert told[1:] == [f"note: me: {left} to go" for left in (28, 20.5, 9, 1)]
    log.append(Decided(policy="llm", woken_by="x", reason="no JSON in it", unusable=True))
    log.append(Decided(policy="llm", woken_by="x", reason="no JSON in it", unusable=True))
    assert [f"{line.mark}: {line.text}" for line in feed.read()] == [
        "held: (3 times more) [3 calls, 3.15k tokens, $0.03]",
        "unusable: llm: no JSON in it",
    ]
    assert [line.text for line in feed.rest()] == ["(1 time more)"]
    assert not feed.rest()
    log.append(Decided(policy="llm", woken_by="x", reason="no JSON in 3 tries", unusable=True))
    assert len(feed.read()) == 1, "a number that is no time is something else"
    feed.close()


def test_the_live_view_tells_what_a_decision_took(log: RunLog, folder: Path) -> None:
    feed = RunFeed(folder)
    log.append(call(), call(), decided(20), step=20)
    log.append(decided(40), step=40)
    log.append(call(), step=60)
    log.submit(propose("save_checkpoint"), APPROVED)
    log.append(Decided(policy="default", woken_by="x", command_ids=["c"], reason="because"), step=60)
    texts = [line.text for line in feed.read()]
    feed.close()
    assert texts[0].endswith("nothing to do [2 calls, 2.1k tokens, $0.02]")
    assert "[" not in texts[1]
    assert texts[2].startswith("tests: save_checkpoint")
    assert texts[2].endswith("[1 call, 1.05k tokens, $0.01]")
