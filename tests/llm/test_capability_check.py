"""How a server answers is found out with real calls, once; a dead one is not taken for a dumb one."""

from __future__ import annotations

from typing import Literal

import pytest

from agenttune.config import BudgetSettings
from agenttune.errors import ModelUnavailable
from agenttune.testing import ChatRequest, ScriptedEndpoint, Step, calls, fails, fits, says
from tests.llm.clients import ask, client


@pytest.mark.parametrize(("supports", "probes"), [("tools", 1), ("json", 2), ("text", 2)])
def test_the_best_that_the_server_can_do(supports: Literal["tools", "json", "text"], probes: int) -> None:
    with ScriptedEndpoint(supports=supports) as endpoint:
        chat = client(endpoint, protocol="auto")
        made = chat.check_capabilities("p")
        assert chat.protocol == supports
        assert [call.purpose for call in made] == ["probe"] * probes
        assert chat.check_capabilities("p") == []
    assert len(endpoint.probes) == chat.spent.calls == probes
    assert endpoint.probes[0].body["tool_choice"] == "required"


@pytest.mark.parametrize("status", [400, 422, 500])
def test_a_server_that_refuses_what_it_does_not_know(status: int) -> None:
    def script(request: ChatRequest) -> Step:
        return fails(status) if request.tools else fits()

    with ScriptedEndpoint(script, supports=None) as endpoint:
        chat = client(endpoint, protocol="auto", max_attempts=2)
        made = chat.check_capabilities("p")
    assert chat.protocol == "json"
    assert made[0].error
    assert chat.unavailable() == ""


def test_a_server_that_refuses_everything_but_words() -> None:
    def script(request: ChatRequest) -> Step:
        return fails(500) if request.tools or request.schema else says("I am ready.")

    with ScriptedEndpoint(script, supports=None) as endpoint:
        chat = client(endpoint, protocol="auto", max_attempts=1)
        assert len(chat.check_capabilities("p")) == 3
    assert chat.protocol == "text"


def test_a_tool_call_in_the_text_is_only_taken_where_json_is_not_to_be_had() -> None:
    written = '{"name": "report_ready", "arguments": {"state": "ready"}}'

    def can_do_json(request: ChatRequest) -> Step:
        return says(written) if request.tools else fits()

    with ScriptedEndpoint(can_do_json, supports=None) as endpoint:
        chat = client(endpoint, protocol="auto")
        chat.check_capabilities("p")
        assert chat.protocol == "json"
    with ScriptedEndpoint(lambda request: says(written if request.tools else "Ready!"), supports=None) as endpoint:
        chat = client(endpoint, protocol="auto")
        chat.check_capabilities("p")
        assert chat.protocol == "tools"


def test_a_call_of_another_tool_or_with_other_arguments_is_no_success() -> None:
    wrong = [calls(("report_ready", {"state": "perhaps"})), says("{}")]
    with ScriptedEndpoint(wrong, supports=None) as endpoint:
        chat = client(endpoint, protocol="auto")
        chat.check_capabilities("p")
    assert chat.protocol == "text"


@pytest.mark.parametrize("fault", [fails(401), fails(404), fails(429), fails(503)])
def test_a_server_in_trouble_is_asked_again_later(fault: Step) -> None:
    script = [fault, fits()]
    with ScriptedEndpoint(script, supports=None) as endpoint:
        chat = client(endpoint, protocol="auto", max_attempts=1)
        with pytest.raises(ModelUnavailable) as caught:
            chat.check_capabilities("p")
        assert caught.value.call.purpose == "probe"
        assert "left alone" in chat.unavailable()
        chat.check_capabilities("p")
    assert chat.protocol == "tools"


def test_a_model_that_cannot_be_called_at_all_is_no_model_of_words() -> None:
    with ScriptedEndpoint([fails(400, "no such model")] * 3, supports=None) as endpoint:
        chat = client(endpoint, protocol="auto")
        with pytest.raises(ModelUnavailable, match="no such model"):
            chat.check_capabilities("p")
        assert "no such model" in chat.unavailable()


def test_calls_of_a_probe_that_broke_off_are_not_lost() -> None:
    with ScriptedEndpoint([says("hm"), fails(503), says("hm"), fits()], supports=None) as endpoint:
        chat = client(endpoint, protocol="auto", max_attempts=1)
        with pytest.raises(ModelUnavailable) as caught:
            chat.check_capabilities("p")
        made = chat.check_capabilities("p")
    assert len([*made, caught.value.call]) == chat.spent.calls == 4


def test_a_setting_needs_no_probe() -> None:
    with ScriptedEndpoint([says("a")]) as endpoint:
        chat = client(endpoint, protocol="json", budgets=BudgetSettings(max_calls=1))
        assert chat.check_capabilities("p") == []
        assert chat.protocol == "json"
        assert ask(chat).protocol == "json"
