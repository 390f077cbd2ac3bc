"""The functions that apply commands, and what comes of it: an answer now, or a thing to wait for before it is true."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from agenttune.protocol.commands import CommandBase, Probe
from agenttune.protocol.events import KnobsRead
from agenttune.protocol.proposals import Change, CommandRecord, Record
from agenttune.trainer.checkpoints.checkpoint_catalog import SavedCheckpoint
from agenttune.trainer.checkpoints.training_state import TrainingState
from agenttune.trainer.lr.schedules import LearningRates
from agenttune.trainer.run_state import RunState


@dataclass(frozen=True)
class Expectation:
    """A value that should be unchanged a few steps later.

    Attributes:
        name: Of the value, as it is told.
        expected: [n_groups]: the value in each of `groups`, in their order; of what has no groups, it alone.
        read: The same as found; None: something that may change the value by right (an evaluation-driven schedule) has
            done so.
        groups: The parameter groups that it is about.
        knob: Whose value it is, where the name says how it was read.
    """

    name: str
    expected: list[Any]
    read: Callable[[], list[Any] | None]
    groups: frozenset[int] = frozenset({0})
    knob: str = ""

    def is_of(self, other: Expectation) -> bool:
        """Whether both are about the same value."""
        return (self.knob or self.name) == (other.knob or other.name)

    def without(self, groups: frozenset[int]) -> Expectation | None:
        """The same of the other groups; None if none is left."""
        if not self.groups & groups:
            return self
        places = [place for place, group in enumerate(sorted(self.groups)) if group not in groups]

        def read() -> list[Any] | None:
            found = self.read()
            return None if found is None else [found[place] for place in places]

        expected = [self.expected[place] for place in places]
        return replace(self, expected=expected, read=read, groups=self.groups - groups) if places else None


@dataclass
class Done:
    """Applied and read back; the ack can be written."""

    message: str = ""
    changes: list[Change] = field(default_factory=list)
    result: dict[str, Any] = field(default_factory=dict)
    events: tuple[Record, ...] = ()
    expectations: list[Expectation] = field(default_factory=list)
    undo: Callable[[], None] | None = None
    """Puts everything back, for a run of several processes where one of the others could not; None: nothing to do."""


@dataclass
class AwaitLearningRate:
    """Applied and read back once; the schedule's next step has to leave it in force."""

    done: Done
    groups: frozenset[int]
    now: list[float]
    """[n_groups]: the rate that the next update must use."""
    next: list[float] | None
    """[n_groups]: the rate that the schedule must give after it; None if that cannot be predicted."""
    clock: int
    """The schedule's own count when the command was applied."""
    undo: Callable[[], None]
    """Restores what else the command changed, if the rate does not hold."""
    stands: str = ""
    """Where the run stands all the same, if the rate does not hold."""


@dataclass
class AwaitSave:
    """The loop was asked to save; the ack comes with the path."""

    message: str = ""
    tag: str | None = None
    is_last: bool = False
    """Training ends with it; the ack says how to go on."""


@dataclass
class AwaitCapture:
    """The state is to be saved once the loop is done with this step."""

    keep_in: str = "disk"
    tag: str | None = None
    pinned: bool = False
    message: str = ""
    is_last: bool = False
    """Training ends with it, on all ranks; the ack says how to go on."""


@dataclass(frozen=True)
class RateAsked:
    """A base learning rate that is to hold after a restore.

    Attributes:
        base: Of the first parameter group.
        before: All rates as they were before the restore.
    """

    base: float
    before: LearningRates


@dataclass
class AwaitRestore:
    """A state is to be restored; the ack comes when the loop has done so."""

    checkpoint: SavedCheckpoint
    branch: str
    state: TrainingState
    dataset: object | None = None
    """The training dataset of that time, if it has been rebuilt since."""
    rate: RateAsked | None = None
    """The learning rate from there on, if it is not to be the saved one."""
    reset_optimizer: bool = False
    """Whether the optimizer is to begin anew there."""
    skips_data: bool = False
    """Whether its place in the data is not that of then but that of now."""
    message: str = ""
    """What there is to say beside what came of it."""
    result: dict[str, object] = field(default_factory=dict)
    """For the ack, beside what came of it."""


@dataclass
class AwaitProbe:
    """Candidates are to be tried once the loop is done with this step; the ack comes when the best is in force."""

    command: Probe


class NotYet:
    """The command has to wait for a later boundary."""


Outcome = Done | AwaitLearningRate | AwaitSave | AwaitCapture | AwaitRestore | AwaitProbe | NotYet

C = TypeVar("C", bound=CommandBase)
Handler = Callable[[RunState, CommandRecord, C], Outcome]
HANDLERS: dict[str, Handler[Any]] = {}
"""How each kind of command is applied."""


def applies(command: type[C]) -> Callable[[Handler[C]], Handler[C]]:
    """Make a function the one that applies a command: a decorator.

    The function checks everything, then writes, then reads back. One that raises has changed nothing: the executor
    turns the error into a failed ack, and training goes on. Between its checks and its first write it calls
    `run_state.agree()`, and what it returns knows how to undo it: then a run of several processes has it on all of
    them or on none. Which loops the command is for, they say themselves
    (`Adapter.capabilities`).
    """

    def add(handler: Handler[C]) -> Handler[C]:
        HANDLERS[command.kind_name()] = handler
        return handler

    return add


Awaited = TypeVar("Awaited", AwaitLearningRate, AwaitSave, AwaitCapture, AwaitRestore)


@dataclass
class Waiting(Generic[Awaited]):
    """A command whose ack has to wait for the loop."""

    record: CommandRecord
    step: int
    outcome: Awaited
    knobs: KnobsRead | None = None
    """As read when the command was applied."""
    problem: str = ""
