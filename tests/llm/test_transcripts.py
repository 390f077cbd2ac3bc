"""The log holds what was said, once, and no secret; a run can be re-scored from it."""

from __future__ import annotations

import hashlib

import pytest

from agenttune.config import LlmSettings
from agenttune.errors import ModelUnavailable
from agenttune.llm import is_configured, resolve
from agenttune.llm.endpoints import endpoint_of, why_no_client
from agenttune.llm.transcript import HIDDEN, redacted
from agenttune.protocol.model_calls import ChatMessage, ModelCalled, PromptUsed, ToolUse
from agenttune.testing import ScriptedEndpoint, calls, fails, refuses, says
from tests.llm.clients import WAIT, ask, client, user

KEY = "very-secret-value-9"
SYSTEM = ChatMessage(role="system", content="You steer a training run. " * 100)


def test_a_stable_prefix_is_stored_once_and_comes_back() -> None:
    use = ToolUse(id="c", name="wait", arguments="{}")
    second = [
        SYSTEM,
        user("step 2"),
        ChatMessage(role="assistant", tool_uses=[use]),
        ChatMessage(role="tool", content="no", tool_use_id="c"),
    ]
    with ScriptedEndpoint([says("a"), says("b")]) as endpoint:
        chat = client(endpoint)
        recorded = [ask(chat, SYSTEM, user("step 1")), ask(chat, *second, tools=[WAIT])]
    assert recorded[0].messages[0].content == SYSTEM.content
    assert recorded[1].messages[0].content is None
    assert recorded[1].messages[0].sha256 == hashlib.sha256((SYSTEM.content or "").encode()).hexdigest()
    read_back = [ModelCalled.model_validate_json(call.model_dump_json()) for call in recorded]
    full = resolve(read_back)
    assert [m.content for m in full[1].messages] == [SYSTEM.content, "step 2", None, "no"]
    assert full[1].messages[2].tool_uses == [use]
    assert full[0].messages[0].content == endpoint.requests[1].messages[0]["content"]
    assert resolve(read_back[1:])[0].messages[0].content is None  # its text is in a call that is not there


def test_prompts_and_purpose_are_recorded() -> None:
    prompt = PromptUsed(name="decide", sha256="ab")
    with ScriptedEndpoint([says("a")]) as endpoint:
        called = client(endpoint).ask([user("x")], policy="mine", purpose="review", prompts=[prompt])
    assert (called.policy, called.purpose, called.prompts) == ("mine", "review", [prompt])
    assert called.endpoint == endpoint.base_url.removesuffix("/v1")


def test_the_key_is_in_no_record_wherever_it_turns_up() -> None:
    leak = f"my key is {KEY}"
    script = [calls(("wait", f'{{"note": "{leak}"}}'), text=leak), says(leak), fails(401, f"wrong key {KEY}")]
    with ScriptedEndpoint(script) as endpoint:
        chat = client(endpoint, environ={"OPENAI_API_KEY": KEY})
        recorded = [ask(chat, user(leak), tools=[WAIT]), ask(chat, user(leak))]
        with pytest.raises(ModelUnavailable) as caught:
            ask(chat)
        recorded.append(caught.value.call)
        assert KEY not in chat.unavailable()
    assert KEY not in str(caught.value)
    for call in recorded:
        assert KEY not in call.model_dump_json()
    assert endpoint.requests[0].last_text == leak  # what is sent is what the policy said
    assert endpoint.requests[0].headers["authorization"] == f"Bearer {KEY}"


def test_the_key_is_in_no_detail_of_a_call_either() -> None:
    with ScriptedEndpoint([refuses(f"no: {KEY}")]) as endpoint:
        refused = ask(client(endpoint, environ={"OPENAI_API_KEY": KEY}), user("x"))
    assert HIDDEN in refused.details["refusal"]
    assert KEY not in refused.model_dump_json()


@pytest.mark.parametrize("url", ["ftp://ann:hunter22@host/v1", "ann:hunter22@host/v1", "http://ann:hunter22@ho st/v1"])
def test_a_password_in_a_wrong_address_is_not_shown(url: str) -> None:
    """Seen: without a scheme it was, in the error and so in the log."""
    shown = is_configured(LlmSettings(model="m", base_url=url), {"OPENAI_API_KEY": KEY}) or why_no_client(url)
    assert "is no URL" in shown
    assert "host" in shown or "ho st" in shown
    assert "hunter22" not in shown


def test_a_password_of_a_proxy_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "foo://ann:hunter22@proxy:1")
    shown = why_no_client("http://host/v1")
    assert "proxy" in shown
    assert "hunter22" not in shown


@pytest.mark.parametrize(
    "secret",
    [
        "sk-proj-abcdefghijkl",
        "Authorization: Bearer abc.def-123456",
        "https://host/v1?key=abcdef123456&x=1",
        "api_key: 'abcdef123456'",
        '{"hf_token": "abcdef123456"}',
        "password=abcdef123456",
        "http://user:abcdef123456@host/",
    ],
)
def test_what_looks_like_a_secret_is_hidden(secret: str) -> None:
    shown = redacted(f"before {secret} after")
    assert HIDDEN in shown
    assert shown.startswith("before ")
    assert shown.endswith(" after")
    for part in ("abcdef123456", "abc.def-123456", "proj-abcdefghijkl"):
        assert part not in shown


@pytest.mark.parametrize("text", ["loss 2.31 at step 400, lr 3e-4", "key: lr", "120 tokens, then 5", "skip-connection"])
def test_other_text_is_left_alone(text: str) -> None:
    assert redacted(text) == text


def test_an_endpoint_is_named_without_its_credentials() -> None:
    assert endpoint_of("http://me:pass@10.0.0.1:8080/v1?key=abc") == "http://10.0.0.1:8080"
    assert endpoint_of("https://example.org/v1") == "https://example.org"


def test_a_password_in_the_base_url_is_in_no_record() -> None:
    with ScriptedEndpoint([fails(401, "no access for pa55word-in-url")]) as endpoint:
        url = endpoint.base_url.replace("://", "://me:pa55word-in-url@")
        with pytest.raises(ModelUnavailable) as caught:
            ask(client(url))
    assert "pa55word" not in caught.value.call.model_dump_json()
