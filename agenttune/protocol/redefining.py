"""Where a run's loss was last given another meaning, told from the acks of its commands.

A knob such as `label_smoothing`, other data, another batch or a changed layer move the loss by definition, not because
training goes better or worse. From there on it is another curve under the same name: whatever judges a loss begins
anew (`Observation.redefined_step`). Which commands do so is a trait of the command (`CommandBase.redefines`), and of a
knob (`register_knob`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import Field

from agenttune.protocol.commands import Redefines
from agenttune.protocol.proposals import Ack, Change, CommandRecord, Record

TRAINING_METRICS = frozenset({"step_loss", "loss", "step_grad_norm", "grad_norm"})
"""What training itself measures on its batches, by the names that the trainer gives them."""
LOSS_WORDS = ("loss", "perplexity", "ppl", "nll")
"""Parts of the names of metrics that are a loss or made of one."""


class Redefinition(Record):
    """A command that gave the loss another meaning.

    Attributes:
        step: After which the loss has it.
        what: The command's kind, with what it changed.
        evaluations: Whether an evaluated loss has it too: how a loss is computed was changed, not what it is of.
    """

    step: int
    branch: str = "main"
    what: str
    evaluations: bool = Field(False)

    def touches(self, metric: str) -> bool:
        """Whether a metric means something else since."""
        return touches("every_loss" if self.evaluations else "training", metric)


def touches(redefined: Redefines, metric: str) -> bool:
    """Whether a change that redefines these losses gives a metric another meaning."""
    if redefined == "nothing":
        return False
    return metric in TRAINING_METRICS or (redefined == "every_loss" and is_a_loss(metric))


def is_a_loss(metric: str) -> bool:
    """Whether a metric is a loss, or made of one, by its name."""
    return any(word in metric.lower() for word in LOSS_WORDS)


def redefinition(record: CommandRecord, ack: Ack | None = None) -> Redefinition | None:
    """What an applied command did to the meaning of the loss; None for nothing, or if it was not applied.

    Args:
        record: The command.
        ack: Its answer, if it is not yet in the record.
    """
    ack = record.ack if ack is None else ack
    if ack is None or ack.outcome != "applied":
        return None
    command = record.command.in_force(ack)
    if command is None:
        return None
    changed = [change for change in ack.changes if _has_changed(change)]
    reach = {change.name: change.redefines or command.redefines_by(change.name) for change in changed}
    names = [name for name, redefined in reach.items() if redefined != "nothing"]
    if not names:
        return None
    evaluations = "every_loss" in reach.values()
    what = f"{command.kind} {', '.join(names)}"[:200]
    return Redefinition(step=ack.step, branch=ack.branch, what=what, evaluations=evaluations)


def _has_changed(change: Change) -> bool:
    was, now = change.previous, change.effective
    both_nan = isinstance(was, float) and isinstance(now, float) and math.isnan(was) and math.isnan(now)
    return bool(was != now) and not both_nan


def newest_of(found: Sequence[Redefinition]) -> list[Redefinition]:
    """Those after which nothing else changed a meaning: the newest, and the newest that touched evaluated losses."""
    last, of_evaluations = found[-1:], [r for r in found if r.evaluations][-1:]
    return last if last == of_evaluations else [*of_evaluations, *last]
