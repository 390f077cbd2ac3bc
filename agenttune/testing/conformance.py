"""What every policy, detector, approver and channel has to hold: subclass a suite, give its fixture, get the tests.

    class TestMine(PolicyTestCase):
        @pytest.fixture
        def make_policy(self):
            return Mine

They need pytest. `adapter_conformance` has the same for trainer adapters, which needs torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, get_args

import pytest

from agenttune.detectors import Detector, undeclared
from agenttune.gate import ApprovalCase, Approver, Opinion, with_arguments
from agenttune.policy.base import Decision, Policy
from agenttune.policy.plugins import checked
from agenttune.protocol.commands import parse_command
from agenttune.protocol.findings import Finding, Severity
from agenttune.protocol.observation import Observation
from agenttune.protocol.proposals import ApprovalRequest, Author, Proposal
from agenttune.server.notify import Channel
from agenttune.testing.situations import situations

SITUATIONS = situations()
LATE_S = 60.0
"""How long an answer that comes later is waited for."""
RATIONALE_CHARACTERS = 4000
COMMANDS: dict[str, dict[str, Any]] = {
    "rate": {"kind": "update_optimizer", "lr": 0.02},
    "weight decay": {"kind": "update_optimizer", "weight_decay": 0.1},
    "schedule": {"kind": "update_training", "max_steps": 2000},
    "stop": {"kind": "stop_training"},
    "save": {"kind": "save_checkpoint"},
    "note": {"kind": "add_note", "text": "look at this"},
    "probe": {"kind": "probe", "candidates": [{"kind": "update_optimizer", "lr": 0.02}]},
}
"""What approvers are asked about."""


_situation = pytest.mark.parametrize("observation", SITUATIONS.values(), ids=SITUATIONS)


class PolicyTestCase:
    """A policy decides in every situation, the same after a restart, and asks for nothing that is no command."""

    @pytest.fixture
    def make_policy(self) -> Callable[[], Policy]:
        """Makes one; the class itself, if it has no parameters that must be given."""
        raise NotImplementedError("give the fixture make_policy")

    def test_it_has_a_name_for_the_log(self, make_policy: Callable[[], Policy]) -> None:
        name = make_policy().name
        assert isinstance(name, str)
        assert 0 < len(name) <= 128
        assert name.isprintable()

    @_situation
    def test_it_decides(self, make_policy: Callable[[], Policy], observation: Observation) -> None:
        before = observation.model_copy(deep=True)
        decision = decided(make_policy(), observation)
        assert repr(observation) == repr(before), "an observation is for looking only"
        for draft in (*decision.proposals, *decision.shadowed):
            assert parse_command(draft.command.model_dump(mode="json")) == draft.command
            assert draft.rationale, "a command needs a reason"
            assert len(draft.rationale) <= RATIONALE_CHARACTERS
            assert draft.valid_for_steps is None or draft.valid_for_steps >= 1

    @_situation
    def test_a_restarted_one_decides_the_same(
        self, make_policy: Callable[[], Policy], observation: Observation
    ) -> None:
        first, second = (decided(make_policy(), observation) for _ in range(2))
        assert first.proposals == second.proposals

    def test_it_says_nothing_on_stdout(
        self, make_policy: Callable[[], Policy], capsys: pytest.CaptureFixture[str]
    ) -> None:
        decided(make_policy(), SITUATIONS["healthy"])
        assert capsys.readouterr().out == "", "stdout may be read by a machine"


def decided(policy: Policy, observation: Observation) -> Decision:
    """A policy's decision, also one that comes later."""
    decision = checked(policy.decide(observation))
    while decision.later is not None:
        decision = checked(decision.later.result(LATE_S))
    return decision


class DetectorTestCase:
    """A detector declares itself, and looks at every run without failing or remembering.

    Attributes:
        finds_in: Situations (of `agenttune.testing.situations`) in which it has to find something.
        quiet_in: Those in which it must not.
    """

    finds_in: tuple[str, ...] = ()
    quiet_in: tuple[str, ...] = ("nothing yet", "healthy")

    @pytest.fixture
    def make_detector(self) -> Callable[[], Detector]:
        """Makes one; the class itself, if it has no parameters that must be given."""
        raise NotImplementedError("give the fixture make_detector")

    def test_it_declares_itself(self, make_detector: Callable[[], Detector]) -> None:
        assert undeclared(type(make_detector()), ()) == ""

    @_situation
    def test_it_looks(self, make_detector: Callable[[], Detector], observation: Observation) -> None:
        detector = make_detector()
        found = list(detector.detect(observation))
        for finding in found:
            assert isinstance(finding, Finding)
            assert finding.kind == detector.name
            assert finding.severity in get_args(Severity)
            assert finding.summary
            assert finding.step <= observation.step
        assert list(detector.detect(observation)) == found, "it keeps nothing between two looks"
        assert list(make_detector().detect(observation)) == found

    def test_it_finds_what_it_is_for_and_leaves_other_runs_alone(self, make_detector: Callable[[], Detector]) -> None:
        found = {name for name, observation in SITUATIONS.items() if list(make_detector().detect(observation))}
        assert found >= set(self.finds_in)
        assert found.isdisjoint(self.quiet_in)


class ApproverTestCase:
    """An approver has an opinion on every command; what it edits is a command still."""

    @pytest.fixture
    def make_approver(self) -> Callable[[], Approver]:
        """Makes one; the class itself, if it has no parameters that must be given."""
        raise NotImplementedError("give the fixture make_approver")

    @pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
    def test_it_has_an_opinion(self, make_approver: Callable[[], Approver], command: dict[str, Any]) -> None:
        case = case_of(command)
        opinion = make_approver().decide(case)
        assert isinstance(opinion, Opinion)
        assert opinion.verdict in ("approve", "edit", "reject", "escalate")
        assert isinstance(opinion.why, str)
        if opinion.verdict in ("reject", "escalate"):
            assert opinion.why, "who asked is told why not"
        if opinion.verdict == "edit":
            assert with_arguments(case.proposal.command, opinion.arguments) != case.proposal.command


def case_of(command: dict[str, Any]) -> ApprovalCase:
    """An agent's command that waits for the first approver of a rule, in a healthy run."""
    author = Author(principal="agent", name="tests")
    proposal = Proposal.model_validate({"command": command, "author": author, "rationale": "a test"})
    observation = SITUATIONS["healthy"]
    request = ApprovalRequest(
        digest=proposal.digest(),
        rule="rule 1",
        approvers=["mine", "human"],
        requested_at_s=observation.at_s,
        expires_at_s=observation.at_s + 900,
        step=observation.step,
        metric=observation.goal_metric,
    )
    return ApprovalCase(proposal, request, observation)


class ChannelTestCase:
    """A channel takes every message and says whether it did. Its fixture should reach nobody."""

    @pytest.fixture
    def channel(self) -> Channel:
        raise NotImplementedError("give the fixture channel")

    def test_its_name_holds_no_address(self, channel: Channel) -> None:
        assert channel.name
        assert not re.search(r"://|@", channel.name), "the name stands in the log"

    @pytest.mark.parametrize(
        ("title", "body"),
        [
            ("Run r1 finished", "Run r1 is finished at step 100 of 100"),
            ("Approve update_optimizer in r1?", "lr: 0.01 -> 0.02\nReason: \u201cthe loss is flat\u201d \u2013 \u00e9"),
            ("x" * 120, "a line\n" * 400),
        ],
    )
    def test_it_takes_a_message(self, channel: Channel, title: str, body: str) -> None:
        assert channel.send(title, body) is True
