"""Several processes that train one model: rank 0 decides, all execute.

Rank 0 alone reads the log, files and clocks. What travels is the command with what rank 0 found out for it, and the
order to act; the other ranks come to a meeting at the same place of their loop, do what they are told, answer, and go
on when they are told to. Whether there is a meeting at the end of a step was told at its start.
"""

from __future__ import annotations

import logging
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

from agenttune.errors import AgenttuneError, RankEnded, RanksApart, UserError
from agenttune.protocol.commands import CommandBase, LoadCheckpoint
from agenttune.protocol.proposals import CommandRecord
from agenttune.trainer.adapter import Trials
from agenttune.trainer.checkpoints.checkpoint_catalog import SavedCheckpoint
from agenttune.trainer.checkpoints.rank_parts import part_of
from agenttune.trainer.checkpoints.shard_files import write_shards
from agenttune.trainer.checkpoints.training_state import TrainingState
from agenttune.trainer.commands.load_checkpoint import find_there
from agenttune.trainer.commands.outcomes import AwaitLearningRate, AwaitRestore, Outcome, Waiting
from agenttune.trainer.distributed.channel import BEAT_S, RankChannel
from agenttune.trainer.distributed.joining import Joining
from agenttune.trainer.distributed.pace import Flag, Pace
from agenttune.trainer.distributed.shards import has_shards
from agenttune.trainer.distributed.steered_values import SteeredValues, said
from agenttune.trainer.execution.acks import check_after_step, check_before_update
from agenttune.trainer.execution.ballot import Ballot, in_words
from agenttune.trainer.execution.single_rank import Restored, SingleRank, held_here
from agenttune.trainer.run_state import RunState, ToldByLeader

logger = logging.getLogger("agenttune")

COMPARED_STEPS = 64
"""How often all ranks compare what commands can change, so that a difference that nobody made ends training (guess)."""


JOINS = "the model's join() is for ranks that end one by one, so they no longer meet at each step"


class Order(NamedTuple):
    """What every rank is to do: the name of a method of `AllRanks`, and its arguments."""

    name: str
    arguments: tuple[Any, ...]


class GoOn(NamedTuple):
    """The meeting is over.

    Attributes:
        wants_between: There is another one when the loop is done with the step.
    """

    wants_between: bool


class LeaderBeat(NamedTuple):
    """Rank 0 is still there."""


class Answer(NamedTuple):
    """What one rank says of an order."""

    value: Any = None
    problem: str = ""


@dataclass
class ToldCommand:
    """A command, with what rank 0 alone can know of it."""

    record: CommandRecord
    candidate: CommandBase | None
    told: ToldByLeader | None
    awaits_agent: bool
    is_held: bool


class AllRanks(SingleRank):
    """A run of several processes.

    Args:
        joining: The way to the other ranks.
        run_state: The run.
        on_restored: Called when the loop has restored a state.
        trials: Told by the loop of what would end a trial.
        wants_between: On rank 0: whether it has work for when the loop is done with the step.
    """

    is_single = False

    def __init__(
        self,
        joining: Joining,
        run_state: RunState,
        on_restored: Callable[[], None],
        trials: Trials,
        wants_between: Callable[[], bool],
    ) -> None:
        super().__init__(run_state, self._note_restored, trials)
        self.leads, self._joining, self._has_work_between = joining.leads, joining, wants_between
        self._met: RankChannel | None = None
        self._values = SteeredValues(run_state)
        self._depth = self._meetings = 0
        self._beat_due_s = 0.0
        self._pace, self._compared_step = Pace(), 0
        self._skips = 0
        """Steps to come without a flag: the same number on all ranks."""
        self._outcome: AwaitRestore | None = None
        self._outcome_of: CommandRecord | None = None
        self._restored: Restored | None = None
        self._tell_restored, self._is_restoring, self._has_restored = on_restored, False, False
        self._captured: TrainingState | None = None
        self._rates: dict[str, Waiting[AwaitLearningRate]] = {}
        self._parts: list[dict[str, Any]] = []

    @property
    def _channel(self) -> RankChannel:
        if self._met is None:
            raise RanksApart("the ranks have not met: torch.distributed is not initialized")
        return self._met

    @property
    def has_met(self) -> bool:
        return self._met is not None

    def meet(self) -> bool:
        if self._met is None:
            self._met = self._joining.meet()
            if self._met is None:
                return False
            self._compared_step = self._run_state.step
            self._ballot = Ballot(self._met, self._values)
            self._run_state.agree = self._ballot.agree
            return True
        return False

    # -- meetings -----------------------------------------------------------------------------------------------

    @contextmanager
    def meeting(self, place: str) -> Iterator[bool]:
        if self._met is None or self.ended:  # nobody applies anything yet, or any more
            yield False
            return
        if not self.leads:
            self._channel.where.note(f"{place} of step {self._run_state.step}")
            with self._until_one_ends():
                self._follow()
            yield False
            return
        with self._until_one_ends():
            self._depth += 1
            is_lost = False
            try:
                yield True
            except RanksApart:
                is_lost = True
                raise
            finally:
                self._depth -= 1
                if not is_lost:  # after a defect of ours too, or the others would wait for ever
                    self.wants_between = self._has_work_between()
                    self._channel.send(GoOn(self.wants_between))
                    self._skips = 0  # what was begun here may need the end of the next step

    @contextmanager
    def _until_one_ends(self) -> Iterator[None]:
        """A rank that comes to its end before the others, as with fewer batches, ends the meetings and not training."""
        self._meetings += 1
        try:
            yield
        except RankEnded as ended:
            if self._meetings > 1:  # what led to this one has to end too
                raise
            self._stop_hearing(ended)
        finally:
            self._meetings -= 1

    def _stops_for_join(self) -> bool:
        """Within `join()` a rank may take its last step at any time: whoever waited for it then would wait for ever."""
        if self._run_state.adapter.joins_unevenly():
            self._stop_hearing(JOINS)
        return bool(self.ended)

    def _stop_hearing(self, ended: object) -> None:
        self.ended, self.wants_between = str(ended), False
        self._run_state.paused_by = None
        self._channel.hang_up()  # or those that wait for this rank would learn of it when their time is over
        logger.warning("%s; training goes on, and takes no more commands", ended)

    def _follow(self) -> None:
        """Do what rank 0 says until it says to go on."""
        while True:
            order = self._channel.receive()
            if isinstance(order, GoOn):
                self.wants_between = order.wants_between
                self._skips = 0
                return
            if isinstance(order, Order) and order.name == "apply_here":
                with suppress(UserError):  # whoever asked is told, on rank 0
                    self.apply_here(*order.arguments)
            elif isinstance(order, Order):
                self._answer(order)

    def _answer(self, order: Order) -> tuple[list[Answer], Exception | None]:
        """Do what is ordered on this rank; the answers of all, and this one's own error."""
        self._channel.where.note(f"{_said(order.name)} at step {self._run_state.step}")
        error: Exception | None = None
        on_one = SingleRank if hasattr(SingleRank, order.name) else AllRanks
        try:
            answer = Answer(getattr(on_one, order.name)(self, *order.arguments))
        except RanksApart:
            raise
        except Exception as raised:
            error = raised
            if not isinstance(raised, AgenttuneError):
                logger.exception("%s failed on rank %d", order.name, self._channel.rank)
            answer = Answer(problem=in_words(raised))
        return self._channel.gather(answer), error

    def _all(self, name: str, *arguments: Any, must_all: bool = False) -> list[Any]:
        """Have every rank do something; outside of a meeting, this one alone.

        Args:
            name: Of the method that does it on one rank.
            arguments: What it is given.
            must_all: Where some can and some cannot, they no longer stand alike.

        Returns:
            What it returned, by rank.

        Raises:
            UserError: A rank could not, and is named.
            RanksApart: Some could not, and all must.
        """
        if not self._depth:
            return [getattr(SingleRank, name)(self, *arguments)]
        order = Order(name, arguments)
        self._channel.send(order)
        answers, error = self._answer(order)
        problems = [(rank, answer.problem) for rank, answer in enumerate(answers) if answer.problem]
        if not problems:
            return [answer.value for answer in answers]
        if len(problems) < len(answers) and must_all:
            raise RanksApart(f"{_said(name)}: rank {problems[0][0]} could not: {problems[0][1]}")
        if error is not None and len(problems) == len(answers):
            raise error
        raise UserError("; ".join(f"rank {rank}: {problem}" for rank, problem in problems[:3]))

    @property
    def is_meeting(self) -> bool:
        return self._depth > 0

    def put_back(self) -> None:
        if self._trial_state is not None and not self.leads:
            self._run_state.adapter.restore_in_place(self._trial_state)
            self._trial_state = None

    def beat(self) -> None:
        now_s = time.monotonic()
        if now_s >= self._beat_due_s:
            self._beat_due_s = now_s + min(BEAT_S, self._channel.limit_s / 4)
            self._channel.send(LeaderBeat())

    def begin(self) -> str:
        """Note which values each rank has for itself; returns what there is to say of them."""
        found = self._values.learn_own(self._channel.gather(self._values.read()))
        if not found:
            return ""
        return f"not the same on all ranks from the start, and not compared: {', '.join(found[:10])}"

    def tell(self, text: str) -> str:
        return self._channel.gather(text)[0]

    def called(self) -> bool:
        if self._met is None or self.ended or self._stops_for_join():
            return False
        try:
            return self._hear()
        except RankEnded as ended:
            self._stop_hearing(ended)
            return False

    def _hear(self) -> bool:
        flag = self._channel.hear()
        if flag is None:
            return False
        self._skips = flag.steps - 1
        if flag.compares and self._run_state.trial is None:
            self._compare()
        return flag.calls

    def _compare(self) -> None:
        """A difference that nobody made ends training rather than go on in silence."""
        if self._channel.are_alike(self._values.number()):
            return
        values = self._channel.gather(self._values.read())
        differences = self._values.differing(values)
        if differences:
            raise RanksApart(
                f"the ranks no longer train alike at step {self._run_state.step}: {said(values, differences)}; "
                "something beside agenttune has changed them"
            )

    def skip(self) -> bool:
        if self._skips:
            self._skips -= 1
            return True
        return False

    @property
    def will_skip(self) -> bool:
        return self._skips > 0

    def call(self, has_work: bool, most: int = 1) -> None:
        if self._met is None or self.ended or self._stops_for_join():
            return
        if not self._met.is_told:
            with suppress(RankEnded):  # found at the step's end too
                self._met.tell(self._flag(has_work, most) if self.leads else Flag(False))

    def _flag(self, has_work: bool, most: int) -> Flag:
        step = self._run_state.step + 1
        compares = not 0 <= step - self._compared_step < COMPARED_STEPS
        if compares:
            self._compared_step = step
        return Flag(has_work, compares, self._pace.next_steps(1 if has_work else most))

    @property
    def process_group(self) -> Any:
        return self._channel.group

    def close(self, why: str = "") -> None:
        if self._met is not None:
            self._met.close(why)

    def reason(self, error: BaseException) -> str:
        if isinstance(error, RanksApart) or self._met is None:
            return str(error) if isinstance(error, RanksApart) else ""
        return self._channel.where.gone_reason(error)

    # -- commands -----------------------------------------------------------------------------------------------

    def apply(self, record: CommandRecord, candidate: CommandBase | None = None) -> Outcome:
        told, run_state = self._told(record, candidate or record.command), self._run_state
        command = ToldCommand(record, candidate, told, run_state.awaits_agent, run_state.is_held())
        self._pace.note_command()
        self._channel.send(Order("apply_here", (command,)))
        return self.apply_here(command)

    def _told(self, record: CommandRecord, command: CommandBase) -> ToldByLeader | None:
        """What rank 0 alone can know of a command.

        Raises:
            UserError: That it cannot be applied.
        """
        if not isinstance(command, LoadCheckpoint) or self._run_state.adapter.checkpoint_refusal():
            return None
        found = find_there(self._run_state, record, command)
        return replace(found, checkpoint=replace(found.checkpoint, state=None))

    def apply_here(self, command: ToldCommand) -> Outcome:
        """On every rank: apply a command if all can."""
        record, run_state = command.record, self._run_state
        self._channel.where.note(f"{record.command.kind} at step {run_state.step}")
        if not self.leads:
            run_state.awaits_agent, run_state.is_held = command.awaits_agent, lambda: command.is_held

        def apply() -> Outcome:
            told = command.told
            run_state.told = None if told is None else replace(told, checkpoint=held_here(run_state, told.checkpoint))
            return SingleRank.apply(self, record, command.candidate)

        try:
            outcome = self._ballot.carry_out(apply)
        finally:
            run_state.told = None
        if isinstance(outcome, AwaitRestore):
            self._outcome, self._outcome_of = outcome, record
        if isinstance(outcome, AwaitLearningRate) and not self.leads:
            self._rates[record.command_id] = Waiting(record, run_state.step, outcome)
        return outcome

    def before_update(self) -> None:
        if self._rates:
            schedule = self._run_state.schedule()
            for waiting in self._rates.values():
                check_before_update(waiting, schedule)

    def rate_problem(self, command_id: str) -> str:
        problems = self._all("rate_problem_here", command_id)
        return next((f"rank {rank}: {problem}" for rank, problem in enumerate(problems) if problem), "")

    def rate_problem_here(self, command_id: str) -> str:
        waiting = self._rates.get(command_id)
        if waiting is None:
            return ""
        check_after_step(waiting, self._run_state.schedule())
        return waiting.problem

    def undo_rate(self, command_id: str) -> None:
        self._all("undo_rate_here", command_id, must_all=True)

    def undo_rate_here(self, command_id: str) -> None:
        waiting = self._rates.pop(command_id, None)
        if waiting is not None:
            waiting.outcome.undo()

    def forget_rates(self) -> None:
        if self._depth:
            self._all("forget_rates_here")

    def forget_rates_here(self) -> None:
        self._rates.clear()

    def evaluate(self) -> dict[str, float]:
        return cast("dict[str, float]", self._all("evaluate")[0])

    def request_save(self) -> None:
        self._all("request_save", must_all=True)

    def request_stop(self) -> None:
        self._all("request_stop", must_all=True)

    # -- states -------------------------------------------------------------------------------------------------

    def captured_for_disk(self) -> TrainingState:
        state = self.captured()
        if not self._depth:
            return state
        self._all("send_part")
        state.ranks = self._parts
        if has_shards(self._run_state.adapter.model()):
            state.write_shards = self._write_shards
        return state

    def send_part(self) -> None:
        """On every rank: what of its state is its own."""
        part = b""
        try:
            state = self.captured()
            self._captured = state if has_shards(self._run_state.adapter.model()) else None
            part = pickle.dumps(part_of(state))
        finally:  # a rank that cannot must not leave rank 0 waiting for its part; its error is told next
            parts = self._channel.collect(part)
        self._parts = [pickle.loads(each) for each in parts if each]

    def _write_shards(self, folder: Path) -> None:
        self._all("write_shards_here", str(folder.absolute()))

    def write_shards_here(self, folder: str) -> None:
        state, self._captured = self._captured, None
        if state is not None:
            write_shards(Path(folder), state, self._channel.files_group())

    def hold(self, saved: SavedCheckpoint) -> None:
        if self._depth:
            try:
                self._all("hold_here", replace(saved, state=None))
            except UserError:
                self.drop([saved.checkpoint_id])
                self._run_state.checkpoints.known.pop(saved.checkpoint_id, None)
                raise

    def hold_here(self, saved: SavedCheckpoint) -> None:
        if not self.leads and saved.path is None:
            self._run_state.checkpoints.add(replace(saved, state=self.captured().copied()))

    def drop(self, checkpoint_ids: Sequence[str]) -> None:
        if self._depth and checkpoint_ids:
            self._all("drop_here", list(checkpoint_ids))

    def drop_here(self, checkpoint_ids: Sequence[str]) -> None:
        if not self.leads:
            for checkpoint_id in checkpoint_ids:
                self._run_state.checkpoints.known.pop(checkpoint_id, None)

    def restore(self, outcome: AwaitRestore) -> None:
        self._all("restore_here", must_all=True)
        self._all("go_on_restored")

    def restore_here(self) -> None:
        if self._outcome is not None:
            with self._restoring():
                SingleRank.restore(self, self._outcome)

    @contextmanager
    def _restoring(self) -> Iterator[None]:
        """A loop that restores at once says so in here: what follows has to wait until all ranks have."""
        self._is_restoring = True
        try:
            yield
        finally:
            self._is_restoring = False

    def _note_restored(self) -> None:
        self._has_restored = True
        if not self._is_restoring:
            self.go_on_restored()

    def go_on_restored(self) -> None:
        """On every rank: what follows once the loop has restored a state, if it has by now."""
        has_restored, self._has_restored = self._has_restored, False
        if has_restored:
            self._tell_restored()

    def finish_restore(self, outcome: AwaitRestore) -> Restored:
        problems = self._all("finish_restore_here", must_all=True)
        if len(set(problems)) > 1:
            told = "; ".join(f"rank {rank}: {text or 'as asked'}" for rank, text in enumerate(problems))
            raise RanksApart(f"not all ranks went back alike: {told}")
        self._all("compare_here")
        return self._restored or Restored()

    def finish_restore_here(self) -> str:
        outcome, self._outcome = self._outcome, None
        if outcome is None:
            return "nothing was to be restored here"
        self._rates.clear()
        self._restored = SingleRank.finish_restore(self, outcome)
        rate = self._restored.changed.rate
        if rate is not None and self._outcome_of is not None and not self.leads:
            self._rates[self._outcome_of.command_id] = Waiting(self._outcome_of, self._run_state.step, rate)
        if not self.leads and self._run_state.trial is None:
            branches = self._run_state.checkpoints.branches
            branches.start(outcome.branch, branches.current, outcome.state.step)
        return self._restored.problem or self._restored.changed.problem

    def compare_here(self) -> None:
        self._compare()

    # -- trials -------------------------------------------------------------------------------------------------

    def begin_trials(self, saved: SavedCheckpoint) -> TrainingState:
        self._all("begin_trials_here", replace(saved, state=None))
        return cast("TrainingState", self._trial_state)

    def begin_trials_here(self, saved: SavedCheckpoint) -> None:
        self.wish = ""
        SingleRank.begin_trials(self, held_here(self._run_state, saved))

    def enter_trial(self, branch: str) -> None:
        self._all("enter_trial_here", branch)

    def enter_trial_here(self, branch: str) -> None:
        SingleRank.enter_trial(self, branch)

    def end_wish(self) -> str:
        return next((f"rank {rank}: {why}" for rank, why in enumerate(self._all("wish_here")) if why), "")

    def wish_here(self) -> str:
        return self.wish

    def leave_trial(self) -> None:
        self._all("leave_trial_here", must_all=True)
        self._all("go_on_restored")

    def leave_trial_here(self) -> None:
        with self._restoring():
            SingleRank.leave_trial(self)

    def finish_leaving(self) -> str:
        problems = self._all("finish_leaving", must_all=True)
        return next((f"rank {rank}: {problem}" for rank, problem in enumerate(problems) if problem), "")

    def end_trials(self) -> None:
        self._all("end_trials", must_all=True)


def _said(name: str) -> str:
    """The name of an order, in words."""
    return name.removesuffix("_here").replace("_", " ")
