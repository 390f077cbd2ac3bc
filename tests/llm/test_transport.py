"""A model on this machine is called directly, and a client that cannot be made costs nothing but the model."""

from __future__ import annotations

from pathlib import Path

import pytest

from agenttune.config import BudgetSettings, LlmSettings
from agenttune.errors import ConfigError
from agenttune.launch import make_plan
from agenttune.llm.endpoints import why_no_client
from agenttune.policy.base import PolicyContext
from agenttune.policy.load import load_policy
from agenttune.policy.wrappers.wrapper import notice_of, unavailable
from agenttune.testing import ScriptedEndpoint, says
from tests.llm.clients import ask, client
from tests.llm_policy.fakes import FakeReader
from tests.policy.conftest import decay, observe
from tests.policy.test_composites import situations

PROXIES = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "all_proxy", "https_proxy", "http_proxy")
SOCKS, ELSEWHERE = "socks5://127.0.0.1:9", "http://192.0.2.1:8000/v1"


@pytest.fixture(autouse=True)
def no_exceptions(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PROXIES, "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", SOCKS, "ftp://127.0.0.1:9"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_proxy_of_the_environment_is_not_for_this_machine(
    monkeypatch: pytest.MonkeyPatch, proxy: str, host: str
) -> None:
    for name in PROXIES:
        monkeypatch.setenv(name, proxy)
    with ScriptedEndpoint([says("hello")]) as endpoint:
        called = ask(client(endpoint.base_url.replace("127.0.0.1", host)))
    assert called.answer is not None
    assert called.answer.content == "hello"


@pytest.mark.parametrize(
    ("variables", "url", "words"),
    [
        ({"ALL_PROXY": SOCKS}, ELSEWHERE, "ImportError"),
        ({"HTTP_PROXY": "ftp://127.0.0.1:9"}, ELSEWHERE, "ValueError"),
        ({"SSL_CERT_FILE": "/no/such/file.pem"}, "https://api.openai.com/v1", "SSL_CERT_FILE"),
        ({}, "http://[::1", "is no URL"),
        ({}, "http://host:notaport/v1", "is no URL"),
        ({}, "http:///v1", "is no URL"),
    ],
)
def test_a_client_that_cannot_be_made_leaves_the_rules_at_work(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], url: str, words: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert words in why_no_client(url)
    assert len(why_no_client(url).splitlines()) == 1
    trouble = situations()[4]
    context = PolicyContext(llm=LlmSettings(model="m", base_url=url), reader=FakeReader(trouble), environ={})
    for name in ("default", "llm_or_rules", "llm_reviewed"):
        policy = load_policy(name, context)
        assert words in notice_of(policy)
        assert unavailable(policy) == ""
        assert policy.decide(trouble).proposals == load_policy("guardian").decide(trouble).proposals != []


def test_a_policy_that_could_never_act_is_refused_before_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`policy: llm` without a model passed `check`, and trained with nobody at work."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    (tmp_path / "train.py").write_text("", encoding="utf-8")
    config = tmp_path / "config.yaml"

    def plan(more: str) -> None:
        config.write_text(f"run: {{script: train.py}}\n{more}\n", encoding="utf-8")
        make_plan(config)

    for name in ("llm", "llm_compact", "llm_shadow"):
        with pytest.raises(ConfigError, match=rf"policy {name} could never act: .*set llm\.model"):
            plan(f"policy: {name}")
    with pytest.raises(ConfigError, match="could never act: no key for m: set OPENAI_API_KEY"):
        plan("policy: llm\nllm: {model: m}")
    with pytest.raises(ConfigError, match="policy llm could never act"):
        plan("policy: noop\nrounds: {count: 1, references: [llm]}")
    for more in ("policy: default", "policy: noop", "policy: llm_or_rules", "rounds: {count: 0, references: [llm]}"):
        plan(more)
    plan("policy: llm\nllm: {model: m, base_url: 'http://127.0.0.1:9/v1'}")


def test_a_cap_on_money_without_a_price_is_told_before_the_run() -> None:
    llm = LlmSettings(model="m", base_url="http://127.0.0.1:9/v1")
    with pytest.raises(ConfigError, match=r"llm\.prices"):
        load_policy("default", PolicyContext(llm=llm, budgets=BudgetSettings(max_usd=1.0), environ={}))


def test_a_fault_that_nobody_foresaw_is_a_failed_call_and_the_endpoint_is_left_alone() -> None:
    """Such as one of the HTTP library: the policy is unavailable then, so that the rules take over."""
    seen = observe(decay(200), lr=0.1)
    with ScriptedEndpoint([]) as endpoint:
        llm = LlmSettings(
            model="m", base_url=endpoint.base_url, protocol="tools", max_attempts=1, extra_body={"k": {1}}
        )
        policy = load_policy("llm", PolicyContext(llm=llm, reader=FakeReader(seen), environ={}))
        later = policy.decide(seen).later
        assert later is not None
        decision = later.result(30)
    assert "TypeError" in decision.reason
    assert "left alone" in unavailable(policy)
