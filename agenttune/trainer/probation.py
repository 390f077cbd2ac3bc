"""Watches each change of an agent for a while, and takes it back if it hurt.

It runs in the training process, at step boundaries: it needs no server and no agent, sees every loss, and its window
is counted in steps. A change that hurt is taken back by a command like any other, which goes through the gate and is
acknowledged; the log then says of the change that it was kept or reverted, and why.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch

from agenttune.commands import CommandBase, LoadCheckpoint, Risk, SaveCheckpoint
from agenttune.config import ProbationSettings
from agenttune.events import Settled
from agenttune.forecast import BEFORE_STEPS, FEWEST, Comparison, compare
from agenttune.proposals import Ack, Author, CommandRecord, Proposal
from agenttune.trainer.meter import Held
from agenttune.trainer.undo import inverse_of

AUTHOR = Author(principal="trainer", name="probation")
METRIC = "step_loss"
NON_FINITE = 3
"""Losses in a row that are not finite, after which nothing is waited for: one may be an overflow (guess)."""
NEVER_WATCHED = frozenset(
    {"save_checkpoint", "load_checkpoint", "pause_training", "resume_training", "stop_training", "do_evaluate"}
)
"""Commands that change nothing that a loss could tell of."""
EARLY_FRAC = 0.25
"""Part of the window after which a change that hurts badly is not watched to the end."""
EARLY_TOLERANCE = 4.0
"""How many times the tolerance "badly" is (guess)."""
EARLY_RISE_FRAC = 0.5
"""And by which part of the loss at least."""


class Trail:
    """The losses of the newest steps, kept as the steps left them; they are read only while a change is watched."""

    def __init__(self, steps: int) -> None:
        self._held: deque[Held] = deque(maxlen=steps)

    def add(self, held: Held) -> None:
        self._held.append(held)

    def cut(self, step: int) -> None:
        """Forget the steps after one that the run went back to."""
        while self._held and self._held[-1].step > step:
            self._held.pop()

    def until(self, step: int) -> list[float]:
        """Losses of the newest steps up to one, oldest first."""
        return [_loss(h) for h in self._held if h.step <= step and h.losses][-BEFORE_STEPS:]

    def after(self, step: int) -> list[float]:
        """Losses of the steps after one, oldest first."""
        return [_loss(h) for h in self._held if h.step > step and h.losses]


def _loss(held: Held) -> float:
    return sum(float(loss.detach()) if isinstance(loss, torch.Tensor) else float(loss) for loss in held.losses)


@dataclass
class Watched:
    """A change on probation.

    Attributes:
        record: The command, with its ack.
        step: At which it took effect.
        before: Losses up to then.
        snapshot: The checkpoint of before it, if there is one.
        revert_id: The command that takes it back, once that was asked for.
        comparison: What the verdict rests on.
        reason: Why it is taken back.
    """

    record: CommandRecord
    step: int
    before: list[float]
    snapshot: str | None = None
    revert_id: str | None = None
    comparison: Comparison | None = None
    reason: str = ""


@dataclass
class Probation:
    """All changes of a run that are watched.

    Args:
        settings: How long, and what counts as hurt.
        submit: Asks for a command; returns why the gate refuses it, empty if it does not.
        settle: Records how the probation of a command ended.
        release: Lets go of a snapshot that nobody needs any more.
    """

    settings: ProbationSettings
    submit: Callable[[Proposal], str]
    settle: Callable[[str, Settled], None]
    release: Callable[[str], None]
    trail: Trail = field(init=False)
    _watched: list[Watched] = field(default_factory=list)
    _snapshots: dict[str, str] = field(default_factory=dict)
    _wanted: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.trail = Trail(self.settings.steps + BEFORE_STEPS)

    @property
    def is_watching(self) -> bool:
        return bool(self._watched)

    def add(self, held: Held) -> None:
        """The numbers of a step."""
        self.trail.add(held)

    # -- the state of before --------------------------------------------------------------------------------------

    def must_wait(self, record: CommandRecord) -> bool:
        """Whether the state of before this command has to be kept first; asks for that once."""
        if self.settings.depth != "state" or record.proposal.author.principal != "agent":
            return False
        if record.command.risk is Risk.OBSERVE or record.command.kind in NEVER_WATCHED:
            return False
        if record.command_id in self._snapshots:
            return False
        if record.command_id not in self._wanted.values():
            self._want(record.command_id, self.settings.keep_in)
        return record.command_id not in self._snapshots

    def _want(self, command_id: str, keep_in: Literal["memory", "disk"]) -> None:
        rationale = f"the state of before {command_id}, should it have to be taken back"
        command = SaveCheckpoint(keep_in=keep_in, tag=f"before-{command_id}"[:64])
        proposal = Proposal(command=command, author=AUTHOR, rationale=rationale)
        self._wanted[proposal.command_id] = command_id
        if self.submit(proposal):
            del self._wanted[proposal.command_id]
            self._snapshots[command_id] = ""

    def _kept(self, record: CommandRecord, ack: Ack) -> None:
        """A snapshot was taken, or was not: then on disk, and if that fails too the change goes without."""
        wanted_for = self._wanted.pop(record.command_id)
        if ack.outcome == "applied":
            self._snapshots[wanted_for] = str(ack.result["checkpoint_id"])
        elif isinstance(record.command, SaveCheckpoint) and record.command.keep_in == "memory":
            self._want(wanted_for, "disk")
        else:
            self._snapshots[wanted_for] = ""

    # -- watching -------------------------------------------------------------------------------------------------

    def acked(self, record: CommandRecord, ack: Ack) -> None:
        """Some command got its ack: a snapshot, a way back, or a change to watch from now on."""
        if record.command_id in self._wanted:
            self._kept(record, ack)
        elif ack.outcome == "applied" and isinstance(record.command, LoadCheckpoint):
            self._went_back(record, ack)
        elif any(watched.revert_id == record.command_id for watched in self._watched):
            self._answered(record, ack)
        elif record.proposal.author.principal == "agent":
            self._begin(record, ack)

    def _begin(self, record: CommandRecord, ack: Ack) -> None:
        snapshot = self._snapshots.pop(record.command_id, "")
        if ack.outcome != "applied" or not ack.changes:
            if snapshot:
                self.release(snapshot)
            return
        record = record.model_copy(update={"ack": ack})
        self._watched.append(Watched(record, ack.step, self.trail.until(ack.step), snapshot or None))

    def look(self, step: int) -> None:
        """At a step boundary: decide on the changes whose time has come."""
        for watched in list(self._watched):
            if watched.revert_id is None:
                self._look(watched, step)

    def _look(self, watched: Watched, step: int) -> None:
        count = step - watched.step
        if count < min(FEWEST, self.settings.steps):
            return
        after = self.trail.after(watched.step)
        tail = after[-NON_FINITE:]
        if len(tail) == NON_FINITE and not any(map(math.isfinite, tail)):
            self._revert(watched, f"the last {NON_FINITE} losses are not finite")
            return
        is_over = count >= self.settings.steps
        if not is_over and count < max(2 * FEWEST, EARLY_FRAC * self.settings.steps):
            return
        watched.comparison = comparison = compare(watched.before, after)
        if comparison is None:
            if is_over:
                self._end(watched, "kept", f"too few finite losses to compare ({len(watched.before)}, {len(after)})")
        elif is_over:
            worse = comparison.is_worse(self.settings.tolerance, self.settings.min_rise_frac)
            said = _said(comparison)
            self._revert(watched, said) if worse else self._end(watched, "kept", said)
        elif comparison.is_worse(EARLY_TOLERANCE * self.settings.tolerance, EARLY_RISE_FRAC):
            self._revert(watched, f"{_said(comparison)}, so badly that the window was cut short after {count} steps")

    def _revert(self, watched: Watched, reason: str) -> None:
        command = self._way_back(watched)
        if command is None:
            self._end(watched, "kept", f"{reason}; but no command takes it back, and there is no snapshot")
            return
        kind, step = watched.record.command.kind, watched.step
        rationale = f"takes back {kind} of step {step} ({watched.record.command_id}): {reason}"
        proposal = Proposal(command=command, author=AUTHOR, rationale=rationale[:4000], based_on_step=step)
        refusal = self.submit(proposal)
        if refusal:
            self._end(watched, "kept", f"{reason}; but taking it back is refused: {refusal}")
        else:
            watched.revert_id, watched.reason = proposal.command_id, reason

    def _way_back(self, watched: Watched) -> CommandBase | None:
        if watched.snapshot is not None:
            return LoadCheckpoint(checkpoint_id=watched.snapshot)
        return inverse_of(watched.record)

    def _answered(self, record: CommandRecord, ack: Ack) -> None:
        for watched in [w for w in self._watched if w.revert_id == record.command_id]:
            if ack.outcome == "applied":
                self._end(watched, "reverted", watched.reason, record.command_id)
            else:
                self._end(watched, "kept", f"{watched.reason}; taking it back {ack.outcome}: {ack.message}")

    def _went_back(self, record: CommandRecord, ack: Ack) -> None:
        """The run stands at an earlier step: changes since then are no longer in force."""
        self.trail.cut(ack.step)
        for watched in [w for w in self._watched if w.step >= ack.step]:
            own = watched.revert_id == record.command_id
            reason = watched.reason if own else "left behind with the steps that the run went back over"
            self._end(watched, "reverted", reason, record.command_id)

    def finish(self, status: str) -> None:
        """The run ends; what is still watched stays as it is."""
        for watched in list(self._watched):
            self._end(watched, "kept", f"the run is {status} before its probation was over")

    def _end(self, watched: Watched, outcome: str, reason: str, reverted_by: str | None = None) -> None:
        self._watched.remove(watched)
        found = watched.comparison
        settled = Settled(
            outcome="reverted" if outcome == "reverted" else "kept",
            reason=reason[:1000],
            metric=METRIC,
            forecast=found.forecast if found else None,
            found=found.found if found else None,
            noise=found.error if found else None,
            reverted_by=reverted_by,
        )
        self.settle(watched.record.command_id, settled)
        if watched.snapshot is not None:
            self.release(watched.snapshot)


def _said(comparison: Comparison) -> str:
    return (
        f"the loss was going to {comparison.forecast:.4g} and came to {comparison.found:.4g} "
        f"(standard error {comparison.error:.2g})"
    )
