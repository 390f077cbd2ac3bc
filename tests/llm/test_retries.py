"""A fault that passes costs a wait; one that lasts is told at once, and the endpoint is left alone for a while."""

from __future__ import annotations

import email.utils
import threading

import pytest

from agenttune.errors import ModelUnavailable
from agenttune.protocol.model_calls import ModelCalled
from agenttune.testing import ScriptedEndpoint, Step, answers_nothing, cuts, fails, garbles, has_no_choices, says
from tests.llm.clients import NOON_S, Clock, ask, client

DATE = email.utils.formatdate(NOON_S + 20, usegmt=True)


@pytest.mark.parametrize(
    ("fault", "waited_s"),
    [
        (fails(500), 0.5),
        (fails(503), 0.5),
        (fails(408), 0.5),
        (fails(409), 0.5),
        (fails(429), 0.5),
        (fails(429, retry_after=7), 7.0),
        (fails(503, retry_after="2.5"), 2.5),
        (fails(429, retry_after=DATE), 20.0),
        (fails(429, retry_after="86400"), 60.0),
        (fails(429, retry_after="-3"), 0.0),
        (fails(429, retry_after="nan"), 0.5),
        (fails(429, retry_after="soon"), 0.5),
        (cuts(), 0.5),
        (garbles(), 0.5),
        (garbles("<html>starting up</html>"), 0.5),
        (garbles("[]"), 0.5),
        (garbles("null"), 0.5),
        (garbles('{"choices": null}'), 0.5),
        (garbles('{"choices": 3}'), 0.5),
        (garbles('{"choices": ["a"]}'), 0.5),
        (garbles('{"choices": [{"message": "x"}]}'), 0.5),
        (garbles('{"choices": [{"message": {"content": 5, "tool_calls": "no"}}]}'), 0.5),
        (garbles('{"choices": [{"message": {"content": "hi"}}], "usage": 7}'), 0.5),
        (garbles('{"choices": [{"message": {"content": "hi"}}], "usage": {"prompt_tokens": "many"}}'), 0.5),
        (garbles('{"choices": [{"message": {"content": ["a"]}, "finish_reason": {"a": 1}}]}'), 0.5),
        (has_no_choices(), 0.5),
        (answers_nothing(), 0.5),
    ],
)
def test_a_fault_that_passes(fault: Step, waited_s: float) -> None:
    clock = Clock()
    with ScriptedEndpoint([fault, says("here")]) as endpoint:
        called = ask(client(endpoint, clock))
    assert called.answer is not None
    assert called.answer.content == "here"
    assert (called.attempts, called.error) == (2, "")
    assert clock.slept_s == [pytest.approx(waited_s)]
    assert called.latency_s == pytest.approx(waited_s)


@pytest.mark.parametrize(
    "fault",
    [fails(400), fails(401), fails(403), fails(404), fails(501), fails(429, code="insufficient_quota")],
)
def test_a_fault_that_lasts_is_not_tried_again(fault: Step) -> None:
    with ScriptedEndpoint([fault]) as endpoint:
        chat = client(endpoint)
        with pytest.raises(ModelUnavailable) as caught:
            ask(chat)
    call = caught.value.call
    assert isinstance(call, ModelCalled)
    assert call.attempts == 1
    assert call.details["status"] == fault.status
    assert call.messages[0].content == "What now?"
    assert call.error == str(caught.value)
    assert f"{fault.status}: " in call.error
    assert endpoint.base_url.removesuffix("/v1") in call.error


def test_waits_double_and_end() -> None:
    clock = Clock()
    with ScriptedEndpoint([fails(500)] * 5) as endpoint, pytest.raises(ModelUnavailable, match="500: "):
        ask(client(endpoint, clock, max_attempts=5))
    assert clock.slept_s == [0.5, 1.0, 2.0, 4.0]


def test_a_server_that_is_not_there() -> None:
    with ScriptedEndpoint() as endpoint:
        pass
    with pytest.raises(ModelUnavailable, match="Connection error") as caught:
        ask(client(endpoint, max_attempts=2))
    assert caught.value.call.attempts == 2


def test_a_server_that_does_not_answer_in_time() -> None:
    steps = iter([says("late").when(threading.Event())])
    with ScriptedEndpoint(lambda request: next(steps, says("in time"))) as endpoint:
        called = ask(client(endpoint, timeout_s=0.3, max_attempts=20))
    assert called.attempts == len(endpoint.requests) >= 2  # more on a busy machine
    assert called.answer is not None
    assert called.answer.content == "in time"


def test_a_failed_endpoint_is_left_alone_ever_longer_and_then_tried_again() -> None:
    clock = Clock()
    with ScriptedEndpoint([says("back")]) as endpoint:
        chat = client(endpoint, clock, max_attempts=1)
        endpoint.is_down = True
        rests_s = []
        for _ in range(7):
            assert chat.unavailable() == ""
            with pytest.raises(ModelUnavailable):
                ask(chat)
            began_s = clock.passed_s
            while chat.unavailable():
                assert "left alone for" in chat.unavailable()
                clock.passed_s += 1
            rests_s.append(clock.passed_s - began_s)
        assert rests_s == [30, 60, 120, 240, 480, 600, 600]
        endpoint.is_down = False
        ask(chat)
        endpoint.is_down = True
        with pytest.raises(ModelUnavailable):
            ask(chat)
        clock.passed_s += 30
        assert chat.unavailable() == ""
