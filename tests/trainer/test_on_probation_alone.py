"""What a change is judged by and what follows, at each limit; without a training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agenttune.config import ProbationSettings
from agenttune.protocol.events import Settled
from agenttune.protocol.proposals import Ack, Author, Change, CommandRecord, Proposal, State
from agenttune.protocol.run_info import RunInfo
from agenttune.trainer.commands.outcomes import Expectation
from agenttune.trainer.execution.acks import READ_BACK_STEPS, ReadBacks
from agenttune.trainer.probation.loss_history import LossHistory
from agenttune.trainer.probation.measures import EvaluationMonitor, Evaluations, StepMonitor
from agenttune.trainer.probation.own_commands import inverse_of
from agenttune.trainer.probation.probation import Probation
from tests.trainer.test_measures import held

pytestmark = pytest.mark.trainer
STEPS = 20


def history(losses: dict[int, float], kept: int = 100) -> LossHistory:
    found = LossHistory(kept)
    for step, loss in losses.items():
        found.add(held(step, loss))
    return found


# -- losses ------------------------------------------------------------------------------------------------------------


def test_losses_are_told_by_the_steps_that_left_them() -> None:
    losses = history({step: float(step) for step in range(1, 11)})
    assert losses.newest == 10
    assert losses.until(5, 3) == [3.0, 4.0, 5.0]
    assert losses.until(5, 9) == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert losses.between(5, 7) == [6.0, 7.0]
    assert losses.between(5, 5) == []
    assert losses.count(4) == 4
    assert LossHistory(5).newest == -1


def test_a_loss_of_several_micro_batches_is_their_sum() -> None:
    found = LossHistory(5)
    found.add(held(1, 0.0)._replace(losses=[torch.tensor(1.5), torch.tensor(2.0)]))
    assert found.until(1, 1) == [3.5]
    assert found.until(1, 1) == [3.5], "also when it is read again"


def test_a_step_without_a_loss_is_left_out() -> None:
    losses = history({1: 1.0, 3: 3.0})
    assert losses.until(3, 5) == [1.0, 3.0]
    assert losses.between(1, 2) == []


def test_steps_that_the_run_went_back_over_are_forgotten() -> None:
    losses = history({step: float(step) for step in range(1, 11)})
    losses.redefine(8)
    losses.cut(6)
    losses.add(held(7, 70.0))
    assert losses.until(7, 2) == [6.0, 70.0]
    losses.add(held(8, 80.0))
    losses.add(held(9, 90.0))
    assert losses.count(9) == 9, "what redefined them is forgotten too"


def test_a_redefinition_of_before_a_return_stays() -> None:
    losses = history({step: float(step) for step in range(1, 11)})
    losses.redefine(3)
    losses.cut(6)
    assert losses.until(6, 9) == [4.0, 5.0, 6.0]


def test_a_run_that_was_joined_late_has_its_losses_by_step_too() -> None:
    losses = history({step: float(step) for step in range(101, 131)}, kept=10)
    assert losses.between(125, 127) == [126.0, 127.0]
    assert losses.until(123, 9) == [121.0, 122.0, 123.0]
    assert losses.count(130) == 10


def test_losses_of_before_a_redefinition_say_nothing_of_later_ones() -> None:
    losses = history({step: float(step) for step in range(1, 11)})
    losses.redefine(6)
    assert losses.until(9, 9) == [7.0, 8.0, 9.0]
    assert losses.until(6, 9) == []
    assert losses.until(5, 9) == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert (losses.count(9), losses.count(6), losses.count(5)) == (3, 0, 5)


def test_the_lowest_level_is_that_of_older_losses() -> None:
    losses = history({i + 1: v for i, v in enumerate([5.0, 5.0, 1.0, 2.0, 1.5, 4.0, 4.0, 4.0, 0.1, 0.1])})
    assert losses.lowest(10, 2, 3) == 2.0, "of 5, 5, 1 and of 2, 1.5, 4"
    assert losses.lowest(10, 0, 2) == pytest.approx(0.1)
    assert losses.lowest(10, 9, 2) is None


# -- the training loss -------------------------------------------------------------------------------------------------


def look(before: list[float], after: list[float], is_over: bool = False, **settings: Any) -> Any:
    known = history({i + 1: v for i, v in enumerate([*before, *after])})
    monitor = StepMonitor(known, ProbationSettings(steps=STEPS, **settings), len(before))
    now = len(before) + len(after)
    return monitor.assess(now, now, is_over)


@pytest.mark.parametrize(("before", "after", "outcome"), [(8, 20, "fine"), (7, 20, "not judged")])
def test_a_change_is_judged_after_its_window_by_eight_losses_of_before(before: int, after: int, outcome: str) -> None:
    falling = [2.0 - 0.02 * i for i in range(before + after)]
    assessment = look(falling[:before], falling[before:], stall_steps=0)
    assert assessment.outcome == outcome
    if outcome == "not judged":
        assert "too few finite losses to compare (7, 20)" in assessment.said


def test_nothing_is_said_of_a_window_that_is_not_over_and_that_it_was_cut_short_is() -> None:
    calm = [1.0] * 30
    assert look(calm, calm[:19]) is None
    short = look(calm, calm[:19], is_over=True)
    assert (short.outcome, short.said) == ("not judged", "nothing tells of it after 19 of 20 steps")
    assert look(calm, calm[:20], is_over=True).outcome == "fine"


@pytest.mark.parametrize(("level", "outcome"), [(1.019, "fine"), (1.03, "worse")])
def test_a_rise_of_two_hundredths_is_harm_where_there_is_no_noise(level: float, outcome: str) -> None:
    assert look([1.0] * 30, [level] * 20, stall_steps=0).outcome == outcome


def test_a_loss_that_rose_is_said_to_have_risen() -> None:
    assert look([1.0] * 30, [1.2] * 20).said.endswith(": it rose")


@pytest.mark.parametrize(("level", "is_cut_short"), [(1.4, False), (1.6, True)])
def test_a_window_is_cut_short_for_a_loss_that_is_half_as_high_again(level: float, is_cut_short: bool) -> None:
    assessment = look([1.0] * 30, [level] * 16)
    assert (assessment is not None) is is_cut_short
    if is_cut_short:
        assert assessment.outcome == "worse"
        assert "cut short after 16 steps" in assessment.said


def test_what_is_tolerated_at_the_end_does_not_cut_a_window_short() -> None:
    assert look([1.0] * 30, [1.6] * 16, min_rise_frac=0.7) is None
    assert look([1.0] * 30, [1.8] * 16, min_rise_frac=0.7).outcome == "worse"


# -- evaluations -------------------------------------------------------------------------------------------------------


def evaluated(values: list[float], every: int = 10, maximize: bool = False) -> Evaluations:
    known = Evaluations("score", maximize)
    for i, value in enumerate(values):
        known.add(every * (i + 1), {"score": value})
    return known


@pytest.mark.parametrize(("before", "outcome"), [(4, "not judged"), (5, "fine")])
def test_five_evaluations_of_before_are_needed(before: int, outcome: str) -> None:
    known = evaluated([1.0] * (before + 1))
    assessment = EvaluationMonitor(known, ProbationSettings(evaluations=1), 10 * before).assess(99, 99, False)
    assert assessment is not None
    assert assessment.outcome == outcome


def test_an_evaluation_at_the_step_of_the_change_is_of_before_it() -> None:
    known = evaluated([1.0] * 5 + [9.0])
    assert known.until(50)[-1] == (50, 1.0)
    assert known.between(50) == [(60, 9.0)]
    assert known.between(50, 59) == []


def test_a_goal_that_is_not_finite_is_harm() -> None:
    known = evaluated([1.0] * 5 + [math.nan])
    assessment = EvaluationMonitor(known, ProbationSettings(evaluations=2), 50).assess(60, 60, False)
    assert assessment is not None
    assert (assessment.outcome, assessment.said) == ("worse", "score is not finite")


def test_of_two_evaluations_at_one_step_the_newest_counts() -> None:
    known = evaluated([1.0, 2.0])
    known.add(20, {"score": 3.0})
    assert known.until(20) == [(10, 1.0), (20, 3.0)]
    known.redefine(10)
    assert known.until(20) == [(20, 3.0)]
    known.cut(9)
    known.add(10, {"score": 4.0})
    assert known.until(10) == [(10, 4.0)], "what redefined it lies on steps that are gone"


def test_values_of_which_more_is_better_are_told_as_they_are() -> None:
    known = evaluated([0.5] * 6 + [0.1], maximize=True)
    assessment = EvaluationMonitor(known, ProbationSettings(evaluations=1), 60).assess(70, 70, False)
    assert assessment is not None
    assert assessment.outcome == "worse"
    assert "was going to 0.5 and came to 0.1" in assessment.said


# -- what follows ------------------------------------------------------------------------------------------------------


class Watch:
    """Probation without a run; what it asks for is answered by hand."""

    def __init__(self, refusal: str = "", **settings: Any) -> None:
        info = RunInfo(run_id="r", name="r", status="running", created_at_s=0.0)
        self.asked: list[Proposal] = []
        self.ended: dict[str, Settled] = {}
        self.released: list[str] = []
        self.refusal = refusal
        rules = ProbationSettings.model_validate({"steps": STEPS, **settings})
        self.probation = Probation(rules, info, self._ask, self.ended.__setitem__, self.released.append)
        self.step = 0

    def _ask(self, proposal: Proposal) -> str:
        self.asked.append(proposal)
        return self.refusal

    def train(self, losses: list[float]) -> None:
        for loss in losses:
            self.step += 1
            self.probation.add(held(self.step, loss))
            if self.probation.is_check_due:
                self.probation.check(self.step)

    def change(self, name: str, author: str = "agent", changes: bool = True, **ack: Any) -> CommandRecord:
        record = asked(name, author)
        change = [Change(name="lr", previous=0.2, requested=0.1, effective=0.1)] if changes else []
        self.probation.acked(record, Ack(**{"outcome": "applied", "step": self.step, "changes": change, **ack}))
        return record

    def answer(self, outcome: Any = "applied", **ack: Any) -> None:
        """Of the newest command that was asked for."""
        record = CommandRecord(proposal=self.asked[-1], state=State.QUEUED, submitted_seq=1)
        self.probation.acked(record, Ack(outcome=outcome, step=self.step, **ack))


def asked(name: str, author: str = "agent", **command: Any) -> CommandRecord:
    raw = {"kind": "update_optimizer", "lr": 0.1, **command} if not command.get("kind") else command
    who = Author(principal=author, name="x")
    proposal = Proposal.model_validate({"command": raw, "author": who, "command_id": name})
    return CommandRecord(proposal=proposal, state=State.QUEUED, submitted_seq=1)


def test_changes_of_agents_are_watched_and_of_nobody_else() -> None:
    watch = Watch()
    watch.train([1.0] * 30)
    watch.change("by-ann", author="operator")
    watch.change("nothing", changes=False)
    watch.change("failed", outcome="failed")
    assert not watch.probation.monitored
    watch.change("mine")
    watch.train([2.0] * 20)
    assert [p.command.arguments().get("lr") for p in watch.asked] == [0.2]
    assert "takes back update_optimizer of step 30 (mine)" in watch.asked[0].rationale
    watch.answer()
    assert watch.ended["mine"].outcome == "reverted"
    assert watch.ended["mine"].reverted_by == watch.asked[0].command_id


@pytest.mark.parametrize(("count", "is_taken_back"), [(2, False), (3, True)])
def test_three_losses_that_are_not_finite_are_not_watched_to_the_end(count: int, is_taken_back: bool) -> None:
    watch = Watch()
    watch.train([1.0] * 30)
    watch.change("mine")
    watch.train([1.0] * (4 - count) + [math.nan] * count)
    assert bool(watch.asked) is is_taken_back
    watch.train([1.0] * 4)
    assert bool(watch.asked) is is_taken_back


def test_a_refused_or_failed_way_back_is_told_and_the_change_stays() -> None:
    refused = Watch(refusal="out of bounds")
    refused.train([1.0] * 30)
    refused.change("mine")
    refused.train([2.0] * 20)
    assert refused.ended["mine"].outcome == "kept"
    assert refused.ended["mine"].reason.endswith("but taking it back is refused: out of bounds")
    failed = Watch()
    failed.train([1.0] * 30)
    failed.change("mine")
    failed.train([2.0] * 20)
    failed.answer("failed", message="no such rate")
    assert failed.ended["mine"].outcome == "kept"
    assert failed.ended["mine"].reason.endswith("taking it back failed: no such rate")


def test_the_end_of_a_run_ends_what_is_watched() -> None:
    watch = Watch()
    watch.train([1.0] * 30)
    watch.change("mine")
    watch.probation.finish("stopped")
    assert watch.ended["mine"].reason == "the run is stopped before its probation was over"
    assert not watch.probation.monitored


# -- the state of before -----------------------------------------------------------------------------------------------


def state_of_before(watch: Watch, name: str = "mine") -> CommandRecord:
    record = asked(name)
    assert watch.probation.must_wait(record)
    return record


def test_a_change_waits_for_its_state_of_before_only_where_that_is_wanted() -> None:
    watch = Watch(depth="state")
    for no_change in asked("a", author="operator"), asked("b", kind="do_evaluate"):
        assert not watch.probation.must_wait(no_change)
    assert not Watch().probation.must_wait(asked("c"))
    assert watch.asked == []
    record = state_of_before(watch)
    assert watch.probation.must_wait(record)
    assert len(watch.asked) == 1, "it is asked for once"
    assert watch.asked[0].command.arguments()["keep_in"] == "memory"
    watch.answer(result={"checkpoint_id": "before"})
    assert not watch.probation.must_wait(record)


def test_a_change_that_hurt_brings_its_state_of_before_back_and_one_that_did_not_lets_it_go() -> None:
    hurt, harmless = Watch(depth="state"), Watch(depth="state", stall_steps=0)
    for watch, level in (hurt, 2.0), (harmless, 1.0):
        watch.train([1.0] * 30)
        state_of_before(watch)
        watch.answer(result={"checkpoint_id": "before"})
        watch.change("mine")
        watch.train([level] * 20)
    assert hurt.asked[-1].command.arguments()["checkpoint_id"] == "before"
    assert hurt.released == []
    assert harmless.ended["mine"].outcome == "kept"
    assert harmless.released == ["before"]


def test_where_the_state_of_before_cannot_come_back_the_value_does_and_the_state_is_let_go() -> None:
    watch = Watch(depth="state")
    watch.train([1.0] * 30)
    state_of_before(watch)
    watch.answer(result={"checkpoint_id": "before"})
    watch.change("mine")
    watch.train([2.0] * 20)
    watch.answer("failed", message="the file is gone")
    assert watch.released == ["before"]
    assert watch.asked[-1].command.arguments()["lr"] == 0.2
    watch.answer()
    assert watch.ended["mine"].outcome == "reverted"
    assert watch.released == ["before"], "once"


def test_a_way_back_that_was_asked_for_is_waited_for() -> None:
    watch = Watch()
    watch.train([1.0] * 30)
    watch.change("mine")
    watch.train([2.0] * 20)
    assert len(watch.asked) == 1
    assert not watch.probation.is_check_due
    watch.train([2.0] * 30)
    assert len(watch.asked) == 1


def test_a_state_that_memory_does_not_take_goes_to_disk_and_without_any_the_value_goes_back() -> None:
    watch = Watch(depth="state")
    watch.train([1.0] * 30)
    record = state_of_before(watch)
    watch.answer("failed")
    assert watch.asked[-1].command.arguments()["keep_in"] == "disk"
    assert watch.probation.must_wait(record)
    watch.answer("failed")
    assert not watch.probation.must_wait(record)
    watch.change("mine")
    watch.train([2.0] * 20)
    assert watch.asked[-1].command.arguments()["lr"] == 0.2


def test_where_the_gate_lets_no_state_be_kept_nothing_waits_for_one() -> None:
    watch = Watch(refusal="forbidden", depth="state")
    assert not watch.probation.must_wait(asked("mine"))


def test_the_state_of_before_a_change_that_failed_is_let_go() -> None:
    watch = Watch(depth="state")
    state_of_before(watch)
    watch.answer(result={"checkpoint_id": "before"})
    watch.change("mine", outcome="failed", changes=False)
    assert watch.released == ["before"]


def test_a_return_to_an_earlier_step_leaves_the_changes_since_then_behind() -> None:
    watch = Watch()
    watch.train([1.0] * 30)
    watch.change("early")
    watch.train([1.0] * 5)
    watch.change("late")
    went_back = asked("back", "operator", kind="load_checkpoint", checkpoint_id="c")
    watch.probation.acked(went_back, Ack(outcome="applied", step=33))
    assert watch.ended["late"].outcome == "reverted"
    assert "left behind with the steps that the run went back over" in watch.ended["late"].reason
    assert "early" not in watch.ended
    watch.probation.acked(went_back, Ack(outcome="applied", step=30))
    assert watch.ended["early"].outcome == "reverted", "the checkpoint of a step is of before its changes"


# -- the way back ------------------------------------------------------------------------------------------------------


def inverse(changes: list[Change], **command: Any) -> dict[str, Any] | None:
    ack = Ack(outcome="applied", step=10, changes=changes)
    found = inverse_of(asked("mine", **command).model_copy(update={"ack": ack}))
    return None if found is None else {"kind": found.kind, **found.arguments()}


def test_the_way_back_writes_what_was_there_before() -> None:
    lr = Change(name="lr", previous=0.2, requested=0.1, effective=0.1)
    back = inverse([lr])
    assert back is not None
    assert (back["kind"], back["lr"]) == ("update_optimizer", 0.2)
    candidates = [{"kind": "update_optimizer", "lr": 0.1}]
    adopted = inverse([lr], kind="probe", candidates=candidates)
    assert adopted is None or adopted["kind"] == "update_optimizer"


def test_where_nothing_was_changed_or_no_command_writes_it_there_is_no_way_back() -> None:
    lr = Change(name="lr", previous=0.2, requested=0.1, effective=0.1)
    assert inverse_of(asked("mine")) is None
    assert inverse([]) is None
    assert inverse([lr], kind="do_evaluate") is None
    endless = Change(name="lr", previous=math.inf, requested=0.1, effective=0.1)
    assert inverse([endless]) is None


# -- read again --------------------------------------------------------------------------------------------------------


def expects(name: str, value: float, found: float | None, groups: frozenset[int] = frozenset({0})) -> Expectation:
    return Expectation(name, [value], lambda: None if found is None else [found], groups)


def test_a_value_is_read_again_five_steps_later_and_once() -> None:
    checks, record = ReadBacks(), asked("mine")
    checks.expect(record, 10, [expects("lr", 0.1, 0.1), expects("eps", 1.0, 2.0)])
    assert checks.due(14) == []
    ((of, result),) = checks.due(15)
    assert (of, result.held) == (record, False)
    assert (result.expected, result.found) == ({"lr": [0.1], "eps": [1.0]}, {"lr": [0.1], "eps": [2.0]})
    assert checks.due(99) == []


def test_a_newer_change_of_the_same_value_in_the_same_group_takes_the_place_of_an_older_ones_check() -> None:
    checks = ReadBacks()
    checks.expect(asked("old"), 10, [expects("lr", 0.1, 0.2), expects("eps", 1.0, 1.0)])
    checks.expect(asked("new"), 11, [expects("lr", 0.2, 0.2)])
    checks.expect(asked("other"), 12, [expects("lr", 0.3, 0.3, frozenset({1}))])
    assert [(r.command_id, b.held, sorted(b.expected)) for r, b in checks.due(20)] == [
        ("old", True, ["eps"]),
        ("new", True, ["lr"]),
        ("other", True, ["lr"]),
    ]


@dataclass(frozen=True)
class Written:
    """A command that writes a value of its own into some groups, or somebody else who does and tells nobody."""

    step: int
    name: str
    groups: frozenset[int]
    is_command: bool


WRITES = st.lists(
    st.builds(
        Written,
        step=st.integers(0, 12),
        name=st.sampled_from(["lr", "lr (base)", "weight_decay"]),
        groups=st.frozensets(st.integers(0, 3), min_size=1),
        is_command=st.sampled_from([True, True, True, False]),
    ),
    max_size=12,
)


@given(WRITES)
def test_each_group_is_read_again_for_the_newest_command_that_wrote_it(writes: list[Written]) -> None:
    """Five steps after a command, in each group that no later one has written meanwhile, and in no other."""
    checks, in_force = ReadBacks(), dict.fromkeys(((name, g) for name in ("lr", "weight_decay") for g in range(4)), 0)
    due: list[tuple[str, int, list[int], bool]] = []
    found: list[tuple[str, int, list[int], bool]] = []
    writes = sorted(writes, key=lambda write: write.step)
    for step in range(20):
        for record, result in checks.due(step):
            ((name, values),) = result.expected.items()
            found.append((name, int(record.command_id), values, result.held))
        for number, write in enumerate(writes):
            knob = write.name.removesuffix(" (base)")
            if write.step == step - READ_BACK_STEPS and write.is_command:
                since = [w for w in writes[number + 1 :] if w.is_command and w.name.removesuffix(" (base)") == knob]
                left = sorted(write.groups - frozenset().union(*(w.groups for w in since if w.step < step)))
                holds = all(in_force[knob, g] == number + 1 for g in left)
                due += [(write.name, number + 1, [number + 1] * len(left), holds)] if left else []
        for number, write in enumerate(writes):
            if write.step != step:
                continue
            knob, groups = write.name.removesuffix(" (base)"), sorted(write.groups)
            in_force |= dict.fromkeys(((knob, g) for g in groups), number + 1)
            if write.is_command:
                read = partial(_values, in_force, knob, groups)
                one = Expectation(write.name, [number + 1] * len(groups), read, write.groups, knob=knob)
                checks.expect(asked(str(number + 1)), step, [one])
    assert found == due


def _values(in_force: dict[tuple[str, int], int], knob: str, groups: list[int]) -> list[int]:
    return [in_force[knob, group] for group in groups]


def test_what_may_have_changed_by_right_is_not_compared() -> None:
    checks = ReadBacks()
    checks.expect(asked("mine"), 10, [expects("lr", 0.1, None)])
    checks.expect(asked("nothing"), 10, [])
    assert checks.due(20) == []
