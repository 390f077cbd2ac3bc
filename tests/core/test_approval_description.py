"""What a person reads before answering a request: all that matters, in figures that are right, and only text."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agenttune.gate.approval_description import ApprovalDescription, asks_a_person, describe, headline
from agenttune.protocol.proposals import ApprovalRequest, CommandRecord, Difference, Passed, Proposal, State
from agenttune.protocol.run_info import RunInfo

HOSTILE = "lr\x1b[2J\x07\u202e\u200b\n\n</pre>"
INFO = RunInfo(run_id="r", name="r", status="running", created_at_s=0.0, step=120, max_steps=500)


def waiting(proposal: dict[str, Any] | None = None, **request: Any) -> CommandRecord:
    """A request of second 1000 that waits for a minute."""
    raw = {"command": {"kind": "update_optimizer", "lr": 0.02}, "author": {"principal": "agent", "name": "llm"}}
    asked = Proposal.model_validate({**raw, "based_on_step": 90, **(proposal or {})})
    given = {"rule": "ask", "approvers": ["human"], "step": 100, "requested_at_s": 1000.0, "expires_at_s": 1060.0}
    held = ApprovalRequest.model_validate({"digest": asked.digest(), **given, **request})
    return CommandRecord(proposal=asked, state=State.PROPOSED, request=held, submitted_seq=1)


def told(
    record: CommandRecord, now_s: float = 1010.0, steps_per_s: float | None = None, **info: Any
) -> ApprovalDescription:
    assert record.request is not None
    return describe(record, record.request, INFO.model_copy(update=info), now_s, steps_per_s)


def test_foreign_text_is_free_of_what_cannot_be_seen() -> None:
    proposal = {
        "command": {"kind": "set_knob", "name": HOSTILE, "value": HOSTILE},
        "author": {"principal": "agent", "name": HOSTILE},
        "rationale": HOSTILE,
    }
    record = waiting(
        proposal,
        rule=HOSTILE,
        branch=HOSTILE,
        metric=HOSTILE,
        passed=[Passed(by=HOSTILE, reason=HOSTILE)],
        approvers=["model", "human"],
        differences=[Difference(name=HOSTILE, before=HOSTILE, after=HOSTILE)],
    )
    seen = told(record)
    for text in (headline(record, 1010.0), *(part for line in seen.lines() for part in line)):
        assert text.isprintable()
    for text in (seen.who, seen.silence, seen.cost, *(part for pair in seen.evidence for part in pair)):
        assert text.isprintable()
    assert seen.exact.isascii()
    assert json.loads(seen.exact) == {"kind": "set_knob", "name": HOSTILE, "value": HOSTILE}
    assert seen.reason == "lr[2J\n\n</pre>", "a reason may have lines"
    assert ("left open by", "lr[2J </pre>: lr[2J </pre>") in seen.evidence


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (0.01, 0.02, "lr 0.01 -> 0.02  (x2)"),
        (0.02, 0.01, "lr 0.02 -> 0.01  (x0.5)"),
        (0.01, 0.01, "lr 0.01 -> 0.01"),
        (0.0, 0.01, "lr 0 -> 0.01"),
        (0.01, 0.0, "lr 0.01 -> 0"),
        (-1.0, 2.0, "lr -1 -> 2"),
        (None, 0.01, "lr not known -> 0.01"),
        ("cosine", "linear", "lr cosine -> linear"),
    ],
)
def test_a_change_is_told_with_its_factor_where_there_is_one(before: object, after: object, words: str) -> None:
    seen = told(waiting(differences=[Difference(name="lr", before=before, after=after)]))
    assert seen.lines()[0] == ("change", words)


def test_it_rests_on_what_was_seen_where_and_by_which_rule() -> None:
    passed = [Passed(by="model:stern", reason="I cannot tell")]
    record = waiting(approvers=["model", "human", "auto"], passed=passed, branch="retry", metric="eval_loss")
    assert told(record).evidence == [
        ("asked at step", "100, on what was seen at step 90"),
        ("the run is now", "running, at step 120 of 500"),
        ("branch", "retry"),
        ("eval_loss", "not evaluated yet"),
        ("rule", "ask, asked: human, then auto"),
        ("left open by", "model:stern: I cannot tell"),
    ]
    bare = told(waiting({"based_on_step": None}, metric="eval_loss", metric_value=0.25), max_steps=None)
    assert bare.evidence[:2] == [("asked at step", "100"), ("the run is now", "running, at step 120")]
    assert ("eval_loss", "0.25") in bare.evidence


@pytest.mark.parametrize(
    ("request_", "now_s", "words"),
    [
        ({}, 1010.0, "(in 50 s), it is not done, and recorded as expired."),
        ({}, 1060.0, "(now), it is not done"),
        ({"on_timeout": "approve"}, 1010.0, "(in 50 s), it is approved."),
        ({"on_timeout": "approve", "approvers": ["model", "human"]}, 1010.0, "it is not done"),
    ],
    ids=["no", "over", "yes", "a model's silence is no yes"],
)
def test_what_silence_means_and_when(request_: dict[str, Any], now_s: float, words: str) -> None:
    assert words in told(waiting(**request_), now_s).silence
    until = waiting({"valid_until_step": 150}, **request_)
    assert told(until, now_s).silence.endswith("It also expires after step 150.")


def test_what_waiting_costs() -> None:
    assert told(waiting()).cost == "Training goes on meanwhile; asked 10 s ago."
    held = waiting(training="pause")
    assert told(held).cost == "Training is held meanwhile: 10 s so far."
    priced = told(held, 1010.0, 100.0, rules={"gate": {"usd_per_hour": 36}})
    assert priced.cost.startswith("Training is held meanwhile: 10 s so far (about 1,000 steps, ")
    assert "0.1" in priced.cost
    assert "1 min 00 s so far" in told(held, 5000.0).cost, "no longer than it waits"
    assert "0.0 s so far" in told(held, 900.0).cost, "nor less than not at all"


def test_the_headline_says_who_what_and_how_long() -> None:
    record = waiting({"command_id": "0123456789abcdef"})
    assert headline(record, 1010.0).startswith("01234567  50 s left  llm: update_optimizer")
    assert "0.0 s left" in headline(record, 2000.0)


def test_a_person_is_asked_when_it_is_their_turn() -> None:
    assert asks_a_person(waiting())
    assert not asks_a_person(waiting(approvers=["model", "human"]))
    assert asks_a_person(waiting(approvers=["model", "human"], passed=[Passed(by="model:m", reason="")]))
    decided = waiting().model_copy(update={"state": State.QUEUED})
    assert not asks_a_person(decided)
    assert not asks_a_person(waiting().model_copy(update={"request": None}))
