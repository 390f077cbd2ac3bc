"""What the learned policy may propose: a few changes, each as a command of the run that it is shown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from agenttune.policy.learned.snapshot import Snapshot
from agenttune.protocol.commands import CommandBase, LoadCheckpoint, UpdateOptimizer, UpdateSchedule

State = Literal["start", "best", "good"]
MOST_LR = 100.0
"""As commands take it."""
FINAL_FRAC = 0.05
"""Where a schedule that is planned anew ends, as a part of its peak; as the guardian's."""


@dataclass(frozen=True)
class PossibleChange:
    """One change.

    Attributes:
        name: By which its commands are found in the history.
        back_to: The state that training goes back to, if any.
        factor: The base learning rate is multiplied by it.
        plans_anew: The rate's course is planned anew from the highest that it had.
    """

    name: str
    back_to: State | None = None
    factor: float = 1.0
    plans_anew: bool = False

    def command(self, snapshot: Snapshot) -> CommandBase | None:
        """The command in a run as it stands; None where it makes no sense."""
        if self.back_to is not None:
            return self._return(snapshot, self.back_to)
        if self.plans_anew:
            return _plan(snapshot)
        lr = _base_lr(snapshot) * self.factor
        if not _is_rate(lr) or (self.factor > 1 and snapshot.group("schedule")["is_warming_up"]):
            return None
        has_base = math.isfinite(snapshot.names["base_lr"])
        return UpdateOptimizer(lr=lr, lr_sets="base" if has_base else "effective")

    def _return(self, snapshot: Snapshot, to: State) -> LoadCheckpoint | None:
        checkpoint_id, lr = state_of(snapshot, to), _base_lr(snapshot) * self.factor
        if not checkpoint_id or not _is_rate(lr) or not snapshot.group("state")["returns_left"] > 0:
            return None
        if self.factor == 1:  # an accident that is over: nothing was wrong with rate or optimizer
            return LoadCheckpoint(checkpoint_id=checkpoint_id)
        return LoadCheckpoint(checkpoint_id=checkpoint_id, lr=lr, reset_optimizer=True)


CHANGES: Sequence[PossibleChange] = (
    *(PossibleChange(f"back_to_start_x{factor:g}", "start", factor) for factor in (0.3, 0.1)),
    *(PossibleChange(f"back_to_best_x{factor:g}", "best", factor) for factor in (0.3, 0.1)),
    *(PossibleChange(f"back_to_good_x{factor:g}", "good", factor) for factor in (1.0, 0.3, 0.1)),
    *(PossibleChange(f"rate_x{factor:g}", None, factor) for factor in (0.3, 3.0, 10.0)),
    PossibleChange("plan_anew", plans_anew=True),
)
"""All of them; to leave the run alone is none."""


def possible(snapshot: Snapshot) -> list[tuple[PossibleChange, CommandBase]]:
    """Those that make sense in a run as it stands, with their commands; of equal ones the first."""
    found: list[tuple[PossibleChange, CommandBase]] = []
    for change in CHANGES:
        command = change.command(snapshot)
        if command is not None and all(command != known for _, known in found):
            found.append((change, command))
    return found


def state_of(snapshot: Snapshot, state: State) -> str:
    """Id of the state to go back to, or ''."""
    return str(snapshot.group("state")[state])


def _plan(snapshot: Snapshot) -> UpdateSchedule | None:
    peak = snapshot.group("schedule")["highest"]
    if not _is_rate(peak) or snapshot.group("schedule")["is_warming_up"] or not snapshot.names["steps_left"] > 1:
        return None
    return UpdateSchedule(shape="cosine", peak_lr=peak, final_lr=peak * FINAL_FRAC)


def _base_lr(snapshot: Snapshot) -> float:
    base: float = snapshot.names["base_lr"]
    return base if math.isfinite(base) else float(snapshot.names["lr"])


def _is_rate(value: float) -> bool:
    return math.isfinite(value) and 0 < value <= MOST_LR
