"""Whoever has to decide decides once, on what was shown, in the world it was meant for; nobody's silence is a yes."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agenttune.control import ApprovalDecision, LocalControl
from agenttune.errors import AlreadyDecided, CommandIdReused, TooManyProposals, UserError
from agenttune.protocol.deadlines import BootTime
from agenttune.protocol.events import Acked, BranchStarted, CheckpointSaved, KnobsRead, StatusChanged
from agenttune.protocol.lr_course import LrCourse, Track
from agenttune.protocol.metrics import Point
from agenttune.protocol.proposals import Ack, Author, CommandRecord, Proposal, StandingApproval, State
from agenttune.protocol.run_info import KnobState, RunInfo
from agenttune.store.run_log import RunLog

AGENT = Author(principal="agent", name="model")
ANNA = Author(principal="operator", name="anna")
BEN = Author(principal="operator", name="ben")
ASK_S = 60
ASK = {"name": "ask", "approvers": ["human"], "timeout_s": ASK_S}
SMALL = {"name": "small", "commands": ["update_optimizer"], "knobs": ["lr"], "max_factor": 2, "approvers": ["auto"]}


class Desk:
    """A run at step 100 with a rate of 0.01, its control, and a machine whose time passes by hand."""

    def __init__(self, runs_dir: Path, **gate: Any) -> None:
        self.now_s, self.ahead_s, self.boot_id = 1_000_000.0, 0.0, "first"
        info = RunInfo(run_id="r1", name="r1", status="running", created_at_s=1.0, max_steps=1000, rules={"gate": gate})
        self.log = RunLog.create(runs_dir / "r1", info)
        rate = KnobState(name="lr", base=0.01, effective=0.01, command="update_optimizer")
        decay = KnobState(name="weight_decay", effective=0.1, command="update_optimizer")
        self.log.append(KnobsRead(knobs=[rate, decay]), step=100)
        self.at(100)
        self.control = self.process()

    def process(self) -> LocalControl:
        """A control as a new process has it; its wall clock may be wrong, its time since the start is not."""
        return LocalControl(
            self.log.folder.parent,
            clock=lambda: self.now_s + self.ahead_s,
            boot=lambda: BootTime(self.boot_id, self.now_s),
        )

    def at(self, step: int) -> None:
        self.log.append_points([Point(step=step, at_s=self.now_s, values={"step_loss": 1.0})])

    def ask(
        self, author: Author = AGENT, *, until: int | None = None, always: bool = False, **fields: Any
    ) -> CommandRecord:
        raw = {"kind": "update_optimizer", **fields} if "kind" not in fields else fields
        proposal = Proposal.model_validate(
            {"command": raw, "author": author, "based_on_step": 100, "valid_until_step": until, "ask_always": always}
        )
        return self.control.submit("r1", proposal)

    def decide(self, record: CommandRecord, verdict: str, author: Author = ANNA, **fields: Any) -> CommandRecord:
        digest = fields.pop("digest", record.request.digest if record.request else "")
        body = {"verdict": verdict, "digest": digest, "author": author, **fields}
        return self.control.decide("r1", record.command_id, ApprovalDecision.model_validate(body))

    def state(self, record: CommandRecord) -> State:
        return self.control.command("r1", record.command_id).state


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Desk]:
    return lambda **gate: Desk(tmp_path, **gate)


# -- who is asked ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({"lr": 0.015}, State.QUEUED),
        ({"lr": 0.005}, State.QUEUED),
        ({"lr": 0.03}, State.PROPOSED),
        ({"lr": 0.0}, State.PROPOSED),
        ({"lr": 0.015, "weight_decay": 0.11}, State.PROPOSED),
        ({"lr": 0.015, "betas": [0.5, 0.9]}, State.PROPOSED),
        ({"lr": 0.015, "other": {"alpha": 0.9}}, State.PROPOSED),
        ({"betas": [0.5, 0.9]}, State.PROPOSED),
        ({"kind": "stop_training"}, State.PROPOSED),
        ({"kind": "update_schedule", "shape": "linear", "peak_lr": 0.01}, State.PROPOSED),
    ],
)
def test_small_changes_pass_and_everything_else_waits(
    make: Callable[..., Desk], fields: dict[str, Any], state: State
) -> None:
    assert make(approval=[SMALL, ASK]).ask(**fields).state is state


def test_what_no_rule_covers_is_rejected_and_people_are_not_asked(make: Callable[..., Desk]) -> None:
    desk = make(approval=[SMALL])
    refused = desk.ask(kind="stop_training")
    assert refused.state is State.REJECTED
    assert refused.verdict is not None
    assert "no rule of gate.approval covers stop_training" in refused.verdict.reason
    assert desk.ask(ANNA, kind="stop_training").state is State.QUEUED


def test_a_request_says_what_it_rests_on(make: Callable[..., Desk]) -> None:
    request = make(approval=[ASK]).ask(lr=0.1).request
    assert request is not None
    assert (request.step, request.branch, request.rule, request.on_timeout) == (100, "main", "ask", "reject")
    assert [(d.name, d.before, d.after) for d in request.differences] == [("lr", 0.01, 0.1)]
    assert request.expires_at_s - request.requested_at_s == 60


def test_a_request_waits_through_its_last_valid_step_and_no_further(make: Callable[..., Desk]) -> None:
    desk = make(approval=[ASK])
    record, late = desk.ask(lr=0.1, until=120), desk.ask(weight_decay=0.2, until=120)
    desk.at(120)
    assert {waiting.command_id for waiting in desk.control.pending("r1")} == {record.command_id, late.command_id}
    assert desk.decide(record, "approve").state is State.QUEUED
    assert desk.ask(betas=[0.5, 0.9], until=120).state is State.PROPOSED
    desk.at(121)
    assert late.command_id not in {waiting.command_id for waiting in desk.control.pending("r1")}
    assert desk.state(late) is State.EXPIRED
    assert desk.ask(eps=1e-6, until=120).state is State.EXPIRED


# -- deciding ----------------------------------------------------------------------------------------------------------


def test_the_first_decision_is_final(make: Callable[..., Desk]) -> None:
    desk = make(approval=[ASK])
    record = desk.ask(lr=0.1)
    decided = desk.decide(record, "reject", reason="it is warming up")
    assert decided.state is State.REJECTED
    assert decided.verdict is not None
    assert (decided.verdict.decided_by, decided.verdict.reason) == ("operator:anna", "it is warming up")
    with pytest.raises(AlreadyDecided, match=r"rejected, decided by operator:anna"):
        desk.decide(record, "approve", BEN)
    assert desk.state(record) is State.REJECTED


def test_what_was_shown_is_what_runs(make: Callable[..., Desk]) -> None:
    desk = make(approval=[ASK])
    record = desk.ask(lr=0.1)
    with pytest.raises(UserError, match="bound to another command"):
        desk.decide(record, "approve", digest="0" * 64)
    assert desk.state(record) is State.PROPOSED
    assert desk.decide(record, "approve").command.arguments()["lr"] == 0.1


def test_an_edit_runs_instead_and_passes_the_same_guardrails(make: Callable[..., Desk]) -> None:
    desk = make(approval=[ASK], bounds={"lr": [1e-6, 0.5]})
    record = desk.ask(lr=0.1)
    for wrong, words in ({"lr": 5.0}, "outside"), ({"lr": -1}, "greater than or equal to 0"):
        with pytest.raises(Exception, match=words):
            desk.decide(record, "edit", command={"kind": "update_optimizer", **wrong})
    with pytest.raises(UserError, match="needs the command"):
        desk.decide(record, "edit")
    assert desk.state(record) is State.PROPOSED
    edited = desk.decide(record, "edit", command={"kind": "update_optimizer", "lr": 0.02})
    assert edited.state is State.QUEUED
    assert edited.command.arguments()["lr"] == 0.02
    assert edited.proposal.command.arguments()["lr"] == 0.1
    assert desk.log.commands(State.QUEUED)[0].command.arguments()["lr"] == 0.02


def test_asking_again_does_not_spoil_the_request_that_waits(make: Callable[..., Desk]) -> None:
    desk = make(approval=[ASK])
    waiting = desk.ask(lr=0.1)
    assert desk.ask(lr=0.1).state is State.REJECTED
    assert desk.decide(waiting, "approve").state is State.QUEUED


def test_guardrails_are_asked_again(make: Callable[..., Desk]) -> None:
    desk = make(approval=[ASK], quiet_last_steps=100)
    waiting = desk.ask(kind="update_training", max_grad_norm=0.5)
    again = desk.ask(kind="update_training", max_grad_norm=0.5)
    assert again.state is State.REJECTED, "the same again, while it waits"
    desk.at(950)
    decided = desk.decide(waiting, "approve")
    assert decided.state is State.REJECTED
    assert decided.verdict is not None
    assert "approved by operator:anna, but since then" in decided.verdict.reason


# -- time and place ----------------------------------------------------------------------------------------------------


def test_nobodys_silence_is_recorded_as_that(make: Callable[..., Desk]) -> None:
    desk = make(approval=[ASK])
    record = desk.ask(lr=0.1)
    desk.now_s += 59
    assert [r.command_id for r in desk.control.pending("r1")] == [record.command_id]
    desk.now_s += 2
    assert desk.control.pending("r1") == []
    expired = desk.control.command("r1", record.command_id)
    assert expired.state is State.EXPIRED
    assert expired.verdict is not None
    assert (expired.verdict.decided_by, expired.verdict.reason) == ("timeout", "nobody decided within 60 s")


def test_a_late_yes_is_told_so(make: Callable[..., Desk]) -> None:
    desk = make(approval=[ASK])
    record = desk.ask(lr=0.1)
    desk.now_s += 61
    assert desk.decide(record, "approve").state is State.EXPIRED


def test_silence_approves_only_where_the_rule_says_so_and_within_the_guardrails(make: Callable[..., Desk]) -> None:
    desk = make(approval=[{**ASK, "on_timeout": "approve"}], quiet_last_steps=100)
    fine, late = desk.ask(lr=0.1), desk.ask(kind="update_training", max_grad_norm=0.1)
    desk.now_s += 61
    desk.control.pending("r1")
    assert desk.state(fine) is State.QUEUED
    assert desk.state(late) is State.QUEUED
    last = desk.ask(kind="do_evaluate")
    desk.at(950)
    desk.now_s += 61
    desk.control.pending("r1")
    assert desk.state(last) is State.REJECTED


def test_a_request_for_a_world_that_is_gone(make: Callable[..., Desk]) -> None:
    desk = make(approval=[ASK])
    soon, there = desk.ask(lr=0.1, until=120), desk.ask(kind="do_evaluate")
    desk.at(121)
    assert desk.decide(soon, "approve").state is State.EXPIRED
    desk.log.append(BranchStarted(name="retry", parent="main", from_step=50), step=121)
    assert desk.state(there) is State.SUPERSEDED


def test_a_newer_request_for_the_same_takes_its_place(make: Callable[..., Desk]) -> None:
    desk = make(approval=[ASK])
    first, decay, second = desk.ask(lr=0.1), desk.ask(weight_decay=0.2), desk.ask(lr=0.2)
    assert [desk.state(r) for r in (first, decay, second)] == [State.SUPERSEDED, State.PROPOSED, State.PROPOSED]
    desk.ask(ANNA, lr=0.3)
    assert desk.state(second) is State.SUPERSEDED


def test_requests_survive_the_server_and_end_with_the_run(make: Callable[..., Desk]) -> None:
    desk = make(approval=[ASK])
    kept, ended = desk.ask(lr=0.1), desk.ask(kind="do_evaluate")
    desk.control = desk.process()
    assert desk.decide(kept, "approve").state is State.QUEUED
    desk.log.append(StatusChanged(status="finished"), step=100)
    assert [desk.state(r) for r in (kept, ended)] == [State.EXPIRED, State.EXPIRED]
    with pytest.raises(AlreadyDecided):
        desk.decide(ended, "approve")


# -- what asks always --------------------------------------------------------------------------------------------------

UNFREEZE: dict[str, Any] = {"kind": "model_layer_operation", "layer_name": "body", "operation_name": "requires_grad_"}
AUTO = {"name": "all", "approvers": ["auto"]}
HOLDS = {"name": "holds", "approvers": ["rule", "human"], "approve_if": "step >= 0"}
SILENT_YES = {"name": "silent", "approvers": ["human"], "timeout_s": ASK_S, "on_timeout": "approve"}
EVERY_SETTING = pytest.mark.parametrize(
    "approval", [[], [AUTO], [HOLDS], [ASK], [SILENT_YES], [{"name": "model", "approvers": ["model", "human"]}]]
)


@EVERY_SETTING
def test_what_asks_always_waits_for_a_person_whatever_the_settings(
    make: Callable[..., Desk], approval: list[dict[str, Any]]
) -> None:
    desk = make(approval=approval)
    approved, rejected = desk.ask(**UNFREEZE, always=True), desk.ask(kind="do_evaluate", always=True)
    assert [r.request.asked for r in (approved, rejected) if r.request is not None] == ["human", "human"]
    assert (desk.state(approved), desk.state(rejected)) == (State.PROPOSED, State.PROPOSED)
    assert desk.decide(approved, "approve").state is State.QUEUED
    refused = desk.decide(rejected, "reject", reason="it is frozen on purpose")
    assert refused.verdict is not None
    assert (refused.state, refused.verdict.decided_by) == (State.REJECTED, "operator:anna")


@EVERY_SETTING
def test_silence_is_never_a_yes_to_what_asks_always(make: Callable[..., Desk], approval: list[dict[str, Any]]) -> None:
    desk = make(approval=approval)
    by_time, by_step = desk.ask(**UNFREEZE, always=True), desk.ask(kind="do_evaluate", always=True, until=150)
    desk.at(151)
    assert [r.command_id for r in desk.control.pending("r1")] == [by_time.command_id]
    desk.now_s += 24 * 3600
    assert desk.control.pending("r1") == []
    assert (desk.state(by_time), desk.state(by_step)) == (State.EXPIRED, State.EXPIRED)
    assert desk.control.info("r1").status == "running"


def test_always_allowed_is_no_yes_to_what_asks_always(make: Callable[..., Desk]) -> None:
    desk = make(approval=[ASK])
    desk.decide(desk.ask(**UNFREEZE), "approve", always=True)
    assert desk.ask(**UNFREEZE).state is State.QUEUED
    waiting = desk.ask(**UNFREEZE, always=True)
    assert waiting.command_id in {record.command_id for record in desk.control.pending("r1")}
    with pytest.raises(UserError, match="asks every time"):
        desk.decide(waiting, "approve", always=True)
    assert desk.decide(waiting, "approve").state is State.QUEUED


def test_only_a_person_decides_on_what_asks_always(make: Callable[..., Desk]) -> None:
    desk = make(approval=[{"name": "model", "approvers": ["model", "human"]}])
    waiting = desk.ask(**UNFREEZE, always=True)
    with pytest.raises(AlreadyDecided, match="not the model's turn"):
        desk.decide(waiting, "approve", AGENT, approver="model")
    assert desk.decide(waiting, "escalate").state is State.REJECTED


def test_what_asks_always_is_refused_where_the_settings_refuse_it(make: Callable[..., Desk]) -> None:
    refuses = {"name": "no", "approvers": ["rule", "human"], "reject_if": "step >= 0"}
    assert make(approval=[refuses]).ask(**UNFREEZE, always=True).state is State.REJECTED


def test_a_command_of_a_person_needs_no_second_one(make: Callable[..., Desk]) -> None:
    assert make().ask(ANNA, **UNFREEZE, always=True).state is State.QUEUED


# -- guardrails over time ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gate", "fields", "words"),
    [
        ({"quiet_first_steps": 200}, {"lr": 0.1}, "before step 200"),
        ({"quiet_last_steps": 950}, {"lr": 0.1}, "in the last 950 steps"),
        (
            {"allowed_layers": ["head.*"]},
            {"kind": "model_layer_parameter_update", "layer_name": "body.0", "param_name": "p", "value": 0.1},
            "gate.allowed_layers is head",
        ),
        ({"window": {"max_commands": 0}}, {"lr": 0.1}, "gate.window.max_commands is 0"),
        ({"window": {"max_change_factor": 3}}, {"lr": 0.1}, "more than a factor of 3"),
    ],
)
def test_limits_of_agents_do_not_bind_people(
    make: Callable[..., Desk], gate: dict[str, Any], fields: dict[str, Any], words: str
) -> None:
    desk = make(**gate)
    refused = desk.ask(**fields)
    assert refused.state is State.REJECTED
    assert refused.verdict is not None
    assert words in refused.verdict.reason
    assert desk.ask(ANNA, **fields).state is State.QUEUED


def test_many_small_changes_do_not_add_up_to_a_large_one(make: Callable[..., Desk]) -> None:
    desk = make(window={"steps": 50, "max_change_factor": 4}, max_change_factor=2)
    lr, states = 0.01, []
    for _ in range(3):
        record = desk.ask(lr=lr * 2)
        states.append(record.state)
        if record.state is State.QUEUED:
            change = {"name": "lr", "previous": lr, "requested": lr * 2, "effective": lr * 2}
            desk.log.acknowledge(
                record.command_id, Ack.model_validate({"outcome": "applied", "step": 100, "changes": [change]})
            )
            lr *= 2
            desk.log.append(KnobsRead(knobs=[KnobState(name="lr", base=lr, effective=lr)]), step=100)
    assert states == [State.QUEUED, State.QUEUED, State.REJECTED]
    desk.at(151)
    assert desk.ask(lr=lr * 2).state is State.QUEUED


def test_clamping_only_where_it_is_asked_for(make: Callable[..., Desk], tmp_path: Path) -> None:
    desk = make(bounds={"lr": [1e-6, 0.5]}, max_change_factor=10, clamp=True)
    clamped = desk.ask(lr=5.0)
    assert clamped.state is State.QUEUED
    assert clamped.verdict is not None
    assert clamped.verdict.decision == "edited"
    assert clamped.command.arguments()["lr"] == pytest.approx(0.1)
    assert clamped.proposal.command.arguments()["lr"] == 5.0
    assert desk.ask(ANNA, lr=5.0).state is State.REJECTED
    strict = Desk(tmp_path / "strict", bounds={"lr": [1e-6, 0.5]})
    assert strict.ask(lr=5.0).state is State.REJECTED


def test_a_refused_proposal_is_not_read_again_for_a_while(make: Callable[..., Desk]) -> None:
    desk = make(approval=[ASK], repeat_cooldown_steps=20)
    desk.decide(desk.ask(lr=0.1), "reject", reason="not now")
    again = desk.ask(lr=0.1)
    assert again.state is State.REJECTED
    assert again.verdict is not None
    assert "not now" in again.verdict.reason
    desk.at(121)
    assert desk.ask(lr=0.1).state is State.PROPOSED


def test_a_persons_no_is_left_behind_by_going_back_before_it(make: Callable[..., Desk]) -> None:
    desk = make(approval=[ASK])
    desk.decide(desk.ask(lr=0.1), "reject", reason="not now")
    desk.log.append(BranchStarted(name="retry", parent="main", from_step=60), step=60)
    desk.log.append_points([Point(branch="retry", step=105, at_s=desk.now_s, values={"step_loss": 1.0})])
    assert desk.ask(lr=0.1).state is State.PROPOSED


def test_what_the_run_could_not_do_is_asked_again_once_it_can(make: Callable[..., Desk]) -> None:
    """Seen before: `previous` was refused for 50 steps for the want of a plan, which was there by then."""
    desk = make(approval=[ASK])
    first = desk.ask(kind="load_checkpoint", checkpoint_id="c1")
    assert first.state is State.REJECTED
    desk.log.append(CheckpointSaved(checkpoint_id="c1", path="memory"), step=100)
    assert desk.ask(kind="load_checkpoint", checkpoint_id="c1").state is State.PROPOSED
    rates = [0.01, 0.01]
    track = Track(groups=[0], shares=[1.0], rates=rates, lowest=rates, highest=rates)
    own = LrCourse(kind="test", text="as it was", steps=[100, 1000], tracks=[track], can_be_planned=True)
    desk.log.update_info(schedule=own)
    back: dict[str, Any] = {"kind": "update_schedule", "shape": "previous"}
    assert desk.ask(**back).state is State.REJECTED
    again = desk.ask(**back).verdict
    assert again is not None
    assert again.decided_by == "guardrail:feasible"
    desk.log.update_info(schedule=own.model_copy(update={"before": own}))
    assert desk.ask(**back).state is State.PROPOSED


def test_a_mad_agent_does_not_keep_people_waiting(make: Callable[..., Desk]) -> None:
    desk = make(max_per_minute=10)
    desk.now_s = desk.log.events(limit=1)[0].at_s
    asked = [desk.ask(kind="do_evaluate") for _ in range(10)]
    before = desk.log.last_seq()
    for _ in range(100):
        with pytest.raises(TooManyProposals, match=r"gate\.max_per_minute is 10"):
            desk.ask(kind="do_evaluate")
    assert desk.control.submit("r1", asked[0].proposal) == asked[0], "the same id gets the same answer"
    assert desk.log.last_seq() == before
    assert desk.ask(ANNA, kind="do_evaluate").state is State.QUEUED


@pytest.mark.parametrize("jump_s", [3600.0, -3600.0])
def test_a_clock_that_was_set_does_not_turn_everybody_away(make: Callable[..., Desk], jump_s: float) -> None:
    desk = make(max_per_minute=3)
    desk.now_s = desk.log.events(limit=1)[0].at_s
    for _ in range(3):
        desk.ask(kind="do_evaluate")
    with pytest.raises(TooManyProposals):
        desk.ask(kind="do_evaluate")
    desk.now_s += jump_s
    assert desk.ask(kind="do_evaluate").state is State.QUEUED


def test_the_gate_does_not_get_slower_with_the_commands_behind_it(make: Callable[..., Desk]) -> None:
    window = {"steps": 50, "max_change_factor": 100}
    desk = make(approval=[SMALL, ASK], window=window)
    desk.now_s = 1e10  # by its clock, all that was asked is long ago
    desk.log.update_info(rules={**desk.log.info().rules, "budgets": {"max_commands": None}})
    fewer, more = _work_of_asking(desk, after=200), _work_of_asking(desk, after=600)
    assert more < 1.2 * fewer, "operations of SQLite's machine, in tens"


def _work_of_asking(desk: Desk, after: int) -> int:
    """What it takes to ask once more when so many commands have been applied."""
    for step in range(100 + desk.log.count_commands(), 100 + after):
        desk.at(step)
        desk.log.acknowledge(desk.ask(lr=0.011).command_id, Ack(outcome="applied", step=step))
    desk.at(1000 + after)
    work: list[int] = []

    def count() -> int:
        work.append(1)
        return 0  # anything else would interrupt the query

    reading = desk.control.log("r1")._db
    reading.set_progress_handler(count, 10)
    try:
        assert desk.ask(lr=0.011).state is State.QUEUED
    finally:
        reading.set_progress_handler(None, 0)
    return len(work)


# -- any interleaving --------------------------------------------------------------------------------------------------


class Life(RuleBasedStateMachine):
    """Submit, decide, expire, set the clock, crash, go back and apply in any order."""

    folder: Path

    @initialize()
    def begin(self) -> None:
        import tempfile

        self._held = tempfile.TemporaryDirectory()
        chain = {**ASK, "name": "chain", "knobs": ["lr"], "approvers": ["model", "human"]}
        self.desk = Desk(Path(self._held.name), approval=[SMALL, chain, ASK], repeat_cooldown_steps=0)
        self.step, self.branches = 100, 0
        self.records: list[CommandRecord] = []
        self.approved: set[str] = set()
        self.ever_allowed: list[StandingApproval] = []
        self.asked_s: dict[str, float] = {}

    def teardown(self) -> None:
        if hasattr(self, "_held"):
            self.desk.log.append(StatusChanged(status="finished"), step=self.step)
            left = {self.desk.state(record) for record in self.records}
            assert not left & {State.PROPOSED, State.QUEUED}
            self.desk.log.close()
            self._held.cleanup()

    @rule(
        change=st.sampled_from([{"lr": lr} for lr in (0.005, 0.015, 0.1, 0.5)] + [{"weight_decay": 0.3}]),
        until=st.sampled_from([None, 105, 130]),
    )
    def submit(self, change: dict[str, Any], until: int | None) -> None:
        self.records.append(self.desk.ask(until=until, **change))
        self.asked_s[self.records[-1].command_id] = self.desk.now_s
        self.allow_standing()

    def allow_standing(self) -> None:
        """What a person always allows needs nobody else once it is a person's turn."""
        for record in self.records:
            now = self.desk.control.command("r1", record.command_id)
            if now.verdict is not None and now.verdict.reason.startswith("always allowed since"):
                assert record.request is not None or now.request is None
                allowed = {s.rule for s in self.ever_allowed}
                assert (now.request.rule if now.request else "ask") in allowed
                self.approved.add(record.command_id)

    @rule(data=st.data())
    @precondition(lambda self: self.records)
    def submit_again(self, data: st.DataObject) -> None:
        record = data.draw(st.sampled_from(self.records))
        again = self.desk.control.submit("r1", record.proposal)
        assert again.command_id == record.command_id
        other = record.proposal.model_copy(update={"valid_until_step": 999})
        with pytest.raises(CommandIdReused):
            self.desk.control.submit("r1", other)

    @rule(data=st.data(), verdict=st.sampled_from(["approve", "always", "reject", "escalate"]), by_model=st.booleans())
    @precondition(lambda self: self.records)
    def decide(self, data: st.DataObject, verdict: str, by_model: bool) -> None:
        record = data.draw(st.sampled_from(self.records))
        before = self.desk.control.command("r1", record.command_id)
        asked = before.request.asked if before.request and before.state is State.PROPOSED else None
        always = verdict == "always" and not by_model
        word = "approve" if verdict == "always" else verdict
        try:
            decided = self.desk.decide(record, word, always=always, approver="model" if by_model else "human")
        except AlreadyDecided:
            assert asked is None or (by_model and asked == "human")
            return
        assert asked is not None
        self.ever_allowed += self.desk.log.info().standing
        if decided.state is State.QUEUED:
            # A model that leaves it to a person finds that the person has always allowed it.
            assert word == "approve" or (decided.verdict and decided.verdict.reason.startswith("always allowed since"))
            self.approved.add(record.command_id)
        if decided.state is State.PROPOSED:
            assert (word, asked) == ("escalate", "model")

    @rule()
    def take_back_what_is_always_allowed(self) -> None:
        for standing in self.desk.log.info().standing:
            with contextlib.suppress(UserError):
                self.desk.control.end_standing_approval("r1", standing.kind, BEN)

    @rule(by_s=st.sampled_from([-500.0, 4000.0]))
    def set_the_wall_clock(self, by_s: float) -> None:
        self.desk.ahead_s += by_s
        self.desk.control.pending("r1")
        self.allow_standing()

    @rule(seconds=st.sampled_from([1.0, 40.0]))
    def wait(self, seconds: float) -> None:
        self.desk.now_s += seconds
        self.desk.control.pending("r1")
        self.allow_standing()

    @rule(steps=st.integers(1, 20))
    def train(self, steps: int) -> None:
        self.step += steps
        self.desk.at(self.step)

    @rule()
    def crash_the_server(self) -> None:
        self.desk.control = self.desk.process()

    @rule()
    def go_back(self) -> None:
        self.branches += 1
        self.desk.log.append(BranchStarted(name=f"b{self.branches}", parent="main", from_step=100), step=self.step)

    @rule(outcome=st.sampled_from(["applied", "failed"]))
    def apply(self, outcome: str) -> None:
        for record in self.desk.log.commands(State.QUEUED):
            ack = Ack.model_validate({"outcome": outcome, "step": self.step})
            self.desk.log.acknowledge(record.command_id, ack)
            with pytest.raises(UserError):
                self.desk.log.acknowledge(record.command_id, ack)

    @invariant()
    def nothing_runs_without_its_verdict(self) -> None:
        for first in getattr(self, "records", []):
            record = self.desk.control.command("r1", first.command_id)
            acks = [e for e in self.desk.log.events(command_id=first.command_id) if isinstance(e.body, Acked)]
            assert len(acks) <= 1
            verdicts = self.desk.log.events(command_id=first.command_id, kinds=["judged"])
            assert len(verdicts) == (record.state is not State.PROPOSED)
            if record.verdict is not None and record.verdict.decided_by == "timeout":
                assert self.desk.now_s - self.asked_s[first.command_id] >= ASK_S
            if record.state in (State.QUEUED, State.APPLIED, State.FAILED) and first.request is not None:
                assert first.command_id in self.approved
            assert json.loads(record.model_dump_json())["state"] == record.state.value


Life.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestLife = Life.TestCase
