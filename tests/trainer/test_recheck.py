"""Before a command is applied the gate looks again, at the values of that moment; and its ack says what was asked."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from agenttune.errors import StoreFault
from agenttune.protocol.deadlines import BootTime, Instant
from agenttune.protocol.observation import HISTORY
from agenttune.protocol.proposals import Ack, ApprovalRequest, Change, CommandRecord, Proposal, State, Verdict
from agenttune.protocol.run_info import KnobState, RunInfo
from agenttune.store.run_log import RunLog
from agenttune.trainer.checkpoints.checkpoint_catalog import SavedCheckpoint
from agenttune.trainer.commands.outcomes import AwaitSave, Done, Waiting
from agenttune.trainer.execution.acks import AckWriter, as_asked
from agenttune.trainer.execution.queue import Admission, CommandQueue
from agenttune.trainer.execution.saving import Saving
from agenttune.trainer.execution.single_rank import SingleRank
from agenttune.trainer.integrations.plain_adapter import PlainAdapter
from agenttune.trainer.knobs import KnobRegistry
from agenttune.trainer.probation.own_commands import OWN_COMMAND_S, OwnCommands
from agenttune.trainer.recording.background_writer import BackgroundWriter
from agenttune.trainer.recording.recorder import Recorder
from agenttune.trainer.run_state import RunState

pytestmark = pytest.mark.trainer
APPROVED = Verdict(decision="approved", decided_by="auto")


def proposed(author: str = "agent", **command: Any) -> Proposal:
    raw = {"kind": "update_optimizer", **command} if "kind" not in command else command
    return Proposal.model_validate({"command": raw, "author": {"principal": author, "name": "x"}})


class Trainer:
    """A run at step 50 with a rate of 0.01, and who looks at its commands before they are applied."""

    def __init__(self, folder: Path, gate: dict[str, Any] | None = None, **budgets: Any) -> None:
        rules = {"gate": gate or {}, "budgets": budgets}
        info = RunInfo(run_id="r", name="r", status="running", created_at_s=0.0, rules=rules)
        self.log = RunLog.create(folder, info)
        self.now = Instant(1000.0, BootTime("b", 0.0))
        self.admission = Admission(self.log, lambda: self.now)
        self.lr, self.step = 0.01, 50
        self.capabilities: list[str] = []

    def submit(self, proposal: Proposal, ruling: Verdict | ApprovalRequest = APPROVED) -> CommandRecord:
        return self.log.submit(proposal, ruling)

    def refusal(self, record: CommandRecord) -> str:
        return self.admission.refusal(record, self._as_of_now)

    def _as_of_now(self, info: RunInfo) -> RunInfo:
        knobs = [KnobState(name="lr", base=self.lr, effective=self.lr)]
        return info.model_copy(update={"step": self.step, "knobs": knobs, "capabilities": self.capabilities})


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Trainer]:
    return lambda **settings: Trainer(tmp_path / "r", **settings)


def test_a_factor_counts_from_the_value_of_this_moment(make: Callable[..., Trainer]) -> None:
    run = make(gate={"max_change_factor": 2})
    record = run.submit(proposed(lr=0.02))
    assert run.refusal(record) == ""
    run.lr = 0.009
    assert run.refusal(record).startswith("refused before it was applied: lr would change from 0.009 to 0.02")


def test_what_the_trainer_itself_asks_for_is_not_looked_at_again(make: Callable[..., Trainer]) -> None:
    run = make(gate={"bounds": {"lr": [0, 0.015]}, "forbid": ["do_evaluate"]})
    for author, is_refused in ("agent", True), ("operator", True), ("trainer", False):
        assert bool(run.refusal(run.submit(proposed(author, lr=0.02)))) is is_refused
    for author, is_refused in ("agent", True), ("operator", False):
        assert bool(run.refusal(run.submit(proposed(author, kind="do_evaluate")))) is is_refused, "it touches no value"


def test_what_the_loop_cannot_do_it_refuses_itself(make: Callable[..., Trainer]) -> None:
    run = make(gate={"bounds": {"lr": [0, 0.015]}})
    record = run.submit(proposed(lr=0.02))
    run.capabilities = ["do_evaluate"]
    assert run.refusal(record) == ""
    run.capabilities = ["update_optimizer"]
    assert run.refusal(record)


def test_a_queued_command_does_not_count_against_its_own_budget(make: Callable[..., Trainer]) -> None:
    run = make(max_commands=2)
    first, second, third = (run.submit(proposed(lr=0.01 + i / 1000)) for i in range(3))
    run.log.acknowledge(third.command_id, Ack(outcome="failed", step=50))
    assert run.refusal(first) == run.refusal(second) == ""
    fourth = run.submit(proposed(lr=0.02))
    assert "budget" in run.refusal(fourth)


def test_a_change_whose_ack_is_not_written_yet_counts(make: Callable[..., Trainer]) -> None:
    """Its ack waits for the schedule's next step; another change may come before it."""
    run = make(gate={"window": {"steps": 20, "max_change_factor": 4}})
    first, second = run.submit(proposed(lr=0.03)), run.submit(proposed(lr=0.06))
    run.lr = 0.03
    assert run.refusal(second) == ""
    run.admission.note(first, 50, [Change(name="lr", previous=0.01, requested=0.03, effective=0.03)])
    assert "after it was changed 3-fold" in run.refusal(second)
    run.step = 70
    assert run.refusal(second) == "", "that was 20 steps ago"


def test_of_many_commands_the_newest_are_looked_at(make: Callable[..., Trainer]) -> None:
    run = make(gate={"cooldown_steps": 10}, max_commands=None)
    for number in range(HISTORY):
        old = run.submit(proposed(weight_decay=0.1 + number / 1000))
        run.log.acknowledge(old.command_id, Ack(outcome="applied", step=1))
    asked = run.submit(proposed(lr=0.02))
    assert run.refusal(asked) == ""
    newest = run.submit(proposed(lr=0.03))
    run.log.acknowledge(newest.command_id, Ack(outcome="applied", step=45))
    assert "lr was changed 5 steps ago" in run.refusal(asked)


@pytest.mark.parametrize(
    ("training", "passed_s", "is_held"), [("pause", 59.0, True), ("pause", 60.0, False), ("continue", 0.0, False)]
)
def test_training_is_held_for_a_request_that_wants_it_and_no_longer_than_it_waits(
    make: Callable[..., Trainer], training: Any, passed_s: float, is_held: bool
) -> None:
    run = make()
    proposal = proposed(lr=0.02)
    request = ApprovalRequest(
        digest=proposal.digest(),
        rule="ask",
        approvers=["human"],
        requested_at_s=1000.0,
        expires_at_s=1060.0,
        boot_id="b",
        requested_boot_s=0.0,
        on_timeout="reject",
        training=training,
        step=50,
        branch="main",
        differences=[],
    )
    run.submit(proposal, request)
    assert not run.admission.is_held, "nobody has looked yet"
    run.admission.look_for_requests()
    run.now = Instant(5.0, BootTime("b", passed_s))  # the wall clock was set; the other one was not
    assert run.admission.is_held is is_held


def test_an_ack_says_what_was_asked_where_a_limit_or_a_person_made_another_value_of_it() -> None:
    asked = proposed(lr=0.5, weight_decay=0.1)
    edited = Verdict(decision="edited", decided_by="operator:ann", edited=proposed(lr=0.02, weight_decay=0.1).command)
    changes = [
        Change(name="lr", previous=0.01, requested=0.02, effective=0.02),
        Change(name="schedule", previous="a", requested="b", effective="b"),
    ]
    ack = Ack(outcome="applied", step=50, changes=changes)
    record = CommandRecord(proposal=asked, state=State.QUEUED, verdict=edited, submitted_seq=1)
    told = as_asked(record, ack)
    assert [(c.name, c.requested, c.effective) for c in told.changes] == [("lr", 0.5, 0.02), ("schedule", "b", "b")]
    for verdict in None, APPROVED:
        assert as_asked(record.model_copy(update={"verdict": verdict}), ack) == ack


# -- the queue ---------------------------------------------------------------------------------------------------------


class FaultyLog(RunLog):
    """A log that cannot be read at times."""

    is_faulty = False

    def commands(self, *states: State, **given: Any) -> list[CommandRecord]:
        if self.is_faulty:
            raise StoreFault("disk I/O error")
        return super().commands(*states, **given)


class Loop(PlainAdapter):
    """A loop whose end moves."""

    end = 100

    def max_steps(self) -> int:
        return self.end


def loop(writer: BackgroundWriter | None = None) -> tuple[RunState, Recorder, AckWriter]:
    """A loop; without a writer, nobody writes its events down."""
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    run_state = RunState(Loop(model, optimizer, None, None, None, None, None), KnobRegistry())
    recorder = Recorder(run_state, writer)
    return run_state, recorder, AckWriter(run_state, recorder)


def ranks_of(run_state: RunState) -> SingleRank:
    nobody: Any = None
    return SingleRank(run_state, lambda: None, nobody)


def queue_of(log: RunLog) -> CommandQueue:
    run_state, recorder, acks = loop()
    return CommandQueue(log, run_state, acks, recorder)


def ids(records: list[CommandRecord]) -> list[str]:
    return [record.command_id for record in records]


def test_what_was_asked_while_the_log_could_not_be_read_comes_once_it_can(make: Callable[..., Trainer]) -> None:
    run = make()
    log = FaultyLog.open(run.log.folder)
    assert isinstance(log, FaultyLog)
    queue = queue_of(log)
    assert queue.fetch() == []
    asked = run.submit(proposed(lr=0.02))
    log.is_faulty = True
    assert [queue.fetch(), queue.fetch()] == [[], []]
    log.is_faulty = False
    assert ids(queue.fetch()) == [asked.command_id], "though nobody has written to the log since"
    assert ids(queue.fetch()) == [asked.command_id], "it waits until it is applied or answered"


def test_what_the_trainer_itself_asks_for_goes_first(make: Callable[..., Trainer]) -> None:
    run = make()
    agents, own = run.submit(proposed(lr=0.02)), run.submit(proposed("trainer", lr=0.01))
    queue = queue_of(run.log)
    assert ids(queue.next(set())) == [own.command_id]
    assert ids(queue.next({own.command_id})) == [agents.command_id]


def test_only_a_persons_pause_or_stop_interrupts_what_everything_else_waits_for(make: Callable[..., Trainer]) -> None:
    run = make()
    queue = queue_of(run.log)
    for author, kind in ("agent", "pause_training"), ("operator", "do_evaluate"):
        run.submit(proposed(author, kind=kind))
        assert queue.interruption() is None
    stop = run.submit(proposed("operator", kind="stop_training"))
    assert [queue.interruption(), queue.interruption()] == [stop, stop], "it is taken off by `next` alone"
    assert len(queue.fetch()) == 3


def test_a_save_after_a_change_is_made_anew_and_not_taken_from_the_loops_own_of_the_same_step() -> None:
    run_state, recorder, acks = loop()
    record = CommandRecord(proposal=proposed(lr=0.02), state=State.QUEUED, submitted_seq=1)
    stop = CommandRecord(proposal=proposed(kind="stop_training"), state=State.QUEUED, submitted_seq=2)
    run_state.step, saving = 7, Saving(run_state, acks, recorder, ranks_of(run_state))
    run_state.checkpoints.newest_of_loop = SavedCheckpoint(path=None, step=7)
    acks.done(record, Done(message="nothing to change"), None, 7)
    saving.accept_save(Waiting(stop, 7, AwaitSave()), is_just_saved=True)
    assert saving.saves == [], "it holds the values in force"
    acks.done(record, Done(changes=[Change(name="lr", previous=0.01, requested=0.02, effective=0.02)]), None, 7)
    saving.accept_save(Waiting(stop, 7, AwaitSave()), is_just_saved=True)
    assert len(saving.saves) == 1


def test_the_run_is_known_to_end_where_a_change_has_moved_its_end(make: Callable[..., Trainer]) -> None:
    run = make()
    writer = BackgroundWriter(run.log.folder)
    run_state, _, acks = loop(writer)
    record = run.submit(proposed(lr=0.02))
    assert isinstance(run_state.adapter, Loop)
    run_state.adapter.end = 250  # as a smaller batch, or other data, has it
    acks.done(record, Done(changes=[Change(name="lr", previous=0.01, requested=0.02, effective=0.02)]), None, 7)
    assert writer.close()
    assert run.log.info().max_steps == 250
    assert run.log.command(record.command_id).state is State.APPLIED


@pytest.mark.parametrize("is_full", [False, True])
def test_training_waits_for_its_own_command_on_a_busy_machine_but_not_for_a_full_disk(
    make: Callable[..., Trainer], is_full: bool
) -> None:
    """Otherwise it would see its own command some steps late, and revert a change later than it says."""
    run, done = make(), threading.Event()

    def write_slowly(log: RunLog) -> None:
        if is_full and not done.is_set():
            raise StoreFault("database or disk is full")
        done.wait(0.0 if is_full else 2.0)

    writer = BackgroundWriter(run.log.folder)
    run_state, recorder, _ = loop(writer)
    writer.submit(write_slowly)
    own = proposed("trainer", kind="save_checkpoint")
    began_s = time.monotonic()
    assert OwnCommands(run.log, run_state, recorder).ask(own) == ""
    took_s, found = time.monotonic() - began_s, run.log.find_command(own.command_id)
    done.set()
    assert writer.close()
    assert (found is None) is is_full
    assert run.log.command(own.command_id).state is State.QUEUED
    if is_full:
        assert took_s < OWN_COMMAND_S / 2
