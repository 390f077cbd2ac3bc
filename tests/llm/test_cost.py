"""What calls cost is counted as the server tells it, and a cap is kept; what is not known is said, not guessed."""

from __future__ import annotations

from typing import Any

import pytest

from agenttune.config import BudgetSettings, LlmSettings, Price
from agenttune.errors import BudgetSpent, ConfigError, ModelUnavailable
from agenttune.llm import is_configured
from agenttune.protocol.model_calls import Ledger, ModelCalled, Usage
from agenttune.testing import ScriptedEndpoint, answers_nothing, fails, says
from tests.llm.clients import ask, client

PRICE = Price(input_usd=2.0, output_usd=10.0, cached_input_usd=0.5)


def test_tokens_and_money() -> None:
    with ScriptedEndpoint([says("a").using(1000, 100, cached_input_tokens=800)] * 2) as endpoint:
        chat = client(endpoint, prices={"scripted": PRICE})
        called = ask(chat)
        ask(chat)
    assert called.usage == Usage(input_tokens=1000, cached_input_tokens=800, output_tokens=100)
    assert called.usd == pytest.approx((200 * 2 + 800 * 0.5 + 100 * 10) / 1e6)
    assert (chat.spent.calls, chat.spent.tokens) == (2, 2200)
    assert chat.spent.usd == pytest.approx(2 * 0.0018)


def test_without_a_cached_price_cached_tokens_cost_as_others() -> None:
    with ScriptedEndpoint([says("a").using(1000, 0, cached_input_tokens=1000)]) as endpoint:
        called = ask(client(endpoint, prices={"scripted": Price(input_usd=2, output_usd=10)}))
    assert called.usd == pytest.approx(0.002)


def test_an_unknown_price_is_said() -> None:
    with ScriptedEndpoint([says("a")]) as endpoint:
        chat = client(endpoint, prices={"another": PRICE})
        assert ask(chat).usd is None
    assert chat.spent.usd is None
    assert chat.spent.tokens > 0


def test_attempts_without_an_answer_count_too() -> None:
    with ScriptedEndpoint([answers_nothing().using(1000, 0), fails(500), says("a").using(1000, 50)]) as endpoint:
        chat = client(endpoint, prices={"scripted": PRICE})
        called = ask(chat)
    assert called.usage == Usage(input_tokens=2000, output_tokens=50)
    assert called.details["unanswered_usage"]["input_tokens"] == 1000
    assert chat.spent.tokens == 2050


def test_a_call_that_failed_counts_too() -> None:
    with ScriptedEndpoint([answers_nothing().using(1000, 10), fails(400)]) as endpoint:
        chat = client(endpoint, prices={"scripted": PRICE})
        with pytest.raises(ModelUnavailable):
            ask(chat)
    assert (chat.spent.calls, chat.spent.tokens) == (1, 1010)
    assert chat.spent.usd == pytest.approx((2000 + 100) / 1e6)


@pytest.mark.parametrize(
    ("caps", "words"),
    [
        (BudgetSettings(max_calls=2), "budget of 2 model calls"),
        (BudgetSettings(max_tokens=2200), "budget of 2200 tokens"),
        (BudgetSettings(max_usd=0.006), "budget of 0.006 USD"),
    ],
)
def test_at_a_cap_no_call_is_made(caps: BudgetSettings, words: str) -> None:
    with ScriptedEndpoint([says("a").using(1000, 100)] * 2) as endpoint:
        chat = client(endpoint, budgets=caps, prices={"scripted": PRICE})
        ask(chat)
        assert chat.unavailable() == ""
        ask(chat)
        assert words in chat.unavailable()
        with pytest.raises(BudgetSpent, match=words):
            ask(chat)
    assert len(endpoint.requests) == 2


def test_an_agent_that_was_started_again_goes_on_with_what_was_spent() -> None:
    with ScriptedEndpoint([says("a").using(1000, 100)] * 2) as endpoint:
        first = client(endpoint, prices={"scripted": PRICE})
        recorded = [ask(first), ask(first)]
        again = client(endpoint, budgets=BudgetSettings(max_calls=2), spent=Ledger.of(recorded))
        assert Ledger.of(recorded) == first.spent
        with pytest.raises(BudgetSpent):
            ask(again)


@pytest.mark.parametrize(
    ("caps", "llm", "words"),
    [
        (BudgetSettings(max_tokens=1000), {}, "does not count tokens"),
        (BudgetSettings(max_usd=1.0), {"prices": {"scripted": PRICE}}, "what calls cost is not known"),
    ],
)
def test_a_cap_that_cannot_be_checked_counts_as_reached(caps: BudgetSettings, llm: dict[str, Any], words: str) -> None:
    with ScriptedEndpoint([says("a").without_usage()]) as endpoint:
        chat = client(endpoint, budgets=caps, **llm)
        called = ask(chat)
        assert (called.usage, called.usd) == (None, None)
        assert words in chat.unavailable()


def test_a_local_model_without_a_price_tag_is_free_even_when_it_does_not_count() -> None:
    free = {"scripted": Price(input_usd=0, output_usd=0)}
    with ScriptedEndpoint([says("a").without_usage()]) as endpoint:
        chat = client(endpoint, budgets=BudgetSettings(max_usd=1.0), prices=free)
        assert ask(chat).usd == 0.0
        assert chat.unavailable() == ""


def test_a_cap_on_money_needs_a_price() -> None:
    with pytest.raises(ConfigError, match=r"price of 'scripted' is not known: add it under llm\.prices") as caught:
        client("http://127.0.0.1:9/v1", budgets=BudgetSettings(max_usd=1.0))
    assert caught.value.field == "llm.prices"


@pytest.mark.parametrize(
    ("llm", "environ", "words"),
    [
        (LlmSettings(), {"OPENAI_API_KEY": "k"}, "set llm.model"),
        (LlmSettings(model="m"), {}, "set OPENAI_API_KEY"),
        (LlmSettings(model="m", api_key_env="MINE"), {"OPENAI_API_KEY": "k"}, "set MINE"),
        (LlmSettings(model="m", base_url="127.0.0.1:8080/v1"), {}, "is no URL"),
        (LlmSettings(model="m"), {"OPENAI_API_KEY": "k"}, ""),
        (LlmSettings(model="m", base_url="http://127.0.0.1:8080/v1"), {}, ""),
        (LlmSettings(model="m"), {"OPENAI_BASE_URL": "http://127.0.0.1:8080/v1"}, ""),
    ],
)
def test_whether_there_is_a_model_is_said_in_one_line(llm: LlmSettings, environ: dict[str, str], words: str) -> None:
    problem = is_configured(llm, environ)
    assert words in problem
    assert bool(words) == bool(problem)
    assert "\n" not in problem


def test_the_sum_of_no_calls_is_nothing() -> None:
    none: list[ModelCalled] = []
    assert Ledger.of(none) == Ledger(usd=0.0, calls=0, tokens=0)
