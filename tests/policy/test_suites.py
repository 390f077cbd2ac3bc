"""The conformance suites, over what is shipped; and that they catch what breaks a promise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agenttune.agent.model_approver import ModelApprover
from agenttune.config import GateReviewerSettings, LlmSettings
from agenttune.detectors import DETECTORS, Detector
from agenttune.gate import Approver
from agenttune.policy.base import Policy, PolicyContext
from agenttune.policy.llm.reviewer import Reviewer
from agenttune.policy.load import load_policy
from agenttune.server.notify import Channel
from agenttune.server.notify.channels import open_channels
from agenttune.testing import ScriptedEndpoint, gives
from agenttune.testing.conformance import (
    SITUATIONS,
    ApproverTestCase,
    ChannelTestCase,
    DetectorTestCase,
    PolicyTestCase,
)
from tests.llm_policy.fakes import FakeReader
from tests.plugin_files import write_plugins
from tests.server.receiving import receiving

SHIPPED = (
    "default",
    "guardian",
    "greedy_lr",
    "learned",
    "llm_or_rules",
    "lookahead",
    "noop",
    "random",
    "reduce_on_plateau",
)
"""Policies that decide without a language model; those with one are asked by the tests of `llm_policy/`."""
ILL = {"divergence": "diverging", "non_finite": "not finite", "overfitting": "overfitting", "plateau": "flat"}


@pytest.mark.parametrize("name", SHIPPED)
class TestShippedPolicies(PolicyTestCase):
    @pytest.fixture
    def make_policy(self, name: str) -> Callable[[], Policy]:
        return lambda: load_policy(name, PolicyContext(environ={}))


class TestPolicyOfAStranger(PolicyTestCase):
    @pytest.fixture
    def make_policy(self, tmp_path: Path) -> Callable[[], Policy]:
        write_plugins(tmp_path)
        return lambda: load_policy("./mine.py:Halve", PolicyContext(tmp_path, environ={}))


@pytest.mark.parametrize("detector", DETECTORS, ids=lambda detector: detector.name)
class TestShippedDetectors(DetectorTestCase):
    @pytest.fixture
    def make_detector(self, detector: Detector) -> Callable[[], Detector]:
        return type(detector)


def test_the_suites_situations_are_what_the_detectors_call_them() -> None:
    suite = DetectorTestCase()
    for detector in DETECTORS:
        suite.finds_in = (ILL[detector.name],) if detector.name in ILL else ()
        suite.test_it_finds_what_it_is_for_and_leaves_other_runs_alone(type(detector))


class TestModelApprover(ApproverTestCase):
    @pytest.fixture
    def make_approver(self) -> Iterator[Callable[[], Approver]]:
        with ScriptedEndpoint([gives({"why": "half of it", "verdict": "reject"})], supports="json") as endpoint:
            llm = LlmSettings(model="m", base_url=endpoint.base_url, max_attempts=1)
            context = PolicyContext(llm=llm, reader=FakeReader(SITUATIONS["healthy"]), environ={})
            yield lambda: ModelApprover(Reviewer("gate", GateReviewerSettings(), context))


class TestAppriseChannel(ChannelTestCase):
    @pytest.fixture
    def channel(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Channel]:
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        with receiving() as receiver:
            yield open_channels("URLS", {"URLS": receiver.url})[0]


class Restless(Policy):
    """Breaks promises: it counts its own calls."""

    calls = 0

    def decide(self, observation: Any) -> Any:
        type(self).calls += 1
        print("deciding")  # noqa: T201
        return 42


def test_a_policy_that_breaks_a_promise_fails_its_suite() -> None:
    with pytest.raises(TypeError, match="decide returned 42"):
        PolicyTestCase().test_it_decides(Restless, SITUATIONS["healthy"])
