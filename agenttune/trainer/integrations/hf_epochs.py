"""Epochs and gradient accumulation of transformers' loop, when steps are steered.

The loop works out epochs and updates per epoch once, at the start. Two things therefore need care: a run that is
given more steps must not end with its planned epochs, and a changed accumulation must neither skip data nor scale a
gradient by the wrong count. Only public methods are overridden (see hf_trainer.py).
"""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import TrainerCallback

OPEN_ENDED = 2**31
"""Epochs that the loop is told of, so that it can outlive its plan; `EpochPlan.end_epoch` knows where that ends."""

Fetch = Callable[[Iterator[Any], int, Any], tuple[list[Any], Any]]


@dataclass
class EpochPlan:
    """What the loop planned when it started.

    Attributes:
        epochs: Epochs planned; None if the data has no length and the loop goes by steps alone.
        updates: Optimizer steps in an epoch, as planned.
        batches: Micro-batches in an epoch.
        is_extended: The run goes on until `max_steps`, however many epochs that takes.
        done: Epochs that are over.
    """

    epochs: int | None = None
    updates: int = 1
    batches: int = 1
    is_extended: bool = False
    done: int = 0

    def read(self, values: tuple[Any, ...], accumulation: int) -> tuple[Any, ...]:
        """Take note of `set_initial_training_values`, and leave the number of epochs open."""
        epochs, updates, batches, max_steps = values[0], values[1], values[5], values[6]
        sized = batches is not None and epochs != sys.maxsize
        self.epochs = epochs if sized else None
        self.updates = updates
        self.batches = batches if batches is not None else max(1, max_steps * accumulation)
        self.is_extended = False
        return (OPEN_ENDED, *values[1:]) if sized else values

    def end_epoch(self) -> bool:
        """Count an epoch; whether it was the last one planned."""
        self.done += 1
        return self.epochs is not None and self.done >= self.epochs and not self.is_extended


class PlannedEpochs(TrainerCallback):  # type: ignore[misc]
    """Shows the other callbacks the planned number of epochs; it is the first of them, and removes itself.

    Args:
        plan: What the loop planned.
        handler: The trainer's callback handler; a callback that stays in it costs every step a little.
    """

    def __init__(self, plan: EpochPlan, handler: Any) -> None:
        self._plan = plan
        self._handler = handler
        handler.callbacks.insert(0, self)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._plan.done = state.global_step // max(1, self._plan.updates)
        if self._plan.epochs is not None:
            state.num_train_epochs = self._plan.epochs
        # A new list: the handler is walking through the old one.
        self._handler.callbacks = [callback for callback in self._handler.callbacks if callback is not self]


@dataclass
class Group:
    """Micro-batches of one optimizer step that are still to be trained on."""

    size: int
    items: Any
    left: int = field(init=False)

    def __post_init__(self) -> None:
        self.left = self.size


class Accumulation:
    """Hands out micro-batches in groups of the accumulation in force.

    Until the accumulation is changed, the loop's own fetching is used as it is. After a change each fetch returns
    whole groups, at least as many batches as the loop's plan counts on, so that an epoch still sees all of its data;
    an epoch that is used up early ends with empty fetches, which the loop passes over.
    """

    def __init__(self) -> None:
        self.is_changed = False
        self._planned = 1
        self._groups: deque[Group] = deque()

    def start_epoch(self, accumulation: int, first: bool) -> None:
        """Note what the loop counts on: what it had at the start (5.x), or at the epoch's start (4.x)."""
        self._planned = accumulation if first else max(self._planned, accumulation)
        self._groups.clear()

    @property
    def is_between_groups(self) -> bool:
        """Whether no fetched batch waits for its step."""
        return not self._groups

    def fetch(self, fetch: Fetch, batches: Iterator[Any], device: Any, now: int) -> tuple[list[Any], Any]:
        """What `get_batch_samples` returns once the accumulation is changed."""
        wanted = math.ceil(max(self._planned, 1) / now) * now
        fetched: list[Any] = []
        while len(fetched) < wanted:
            group, items = fetch(batches, now, device)
            if group:
                self._groups.append(Group(len(group), items))
                fetched += group
            if len(group) < now:
                break
        return fetched, None

    def take(self) -> Group | None:
        """The group of the next micro-batch; None while the loop's own counting holds."""
        if not self._groups:
            return None
        group = self._groups[0]
        group.left -= 1
        if group.left == 0:
            self._groups.popleft()
        return group


NEVER = 2**62
"""An accumulation that no number of micro-batches completes."""


class Alignment:
    """Aligns the loop's count of micro-batches with the data, after a restore into the middle of an epoch.

    The loop completes an epoch's last, smaller group by its own count, which begins at 0. So its first group there is
    led by as many batches as were done before, which are passed over: nothing is computed for them, and no update
    made. Only epochs that end with a smaller group need that.
    """

    def __init__(self) -> None:
        self.due = 0
        """Batches to pass over in the next group."""
        self.is_active = False
        self._left = 0
        self._accumulation = 1
        self._group = 0
        self._counts: tuple[Any, Any] = (0, 0)

    def pad(self, fetched: tuple[list[Any], Any], trainer: Any) -> tuple[list[Any], Any]:
        """The first group, led by batches to pass over."""
        batches, items = fetched
        if not batches:
            return fetched
        self._left, self.due, self._group = self.due, 0, len(batches)
        self._accumulation = trainer.args.gradient_accumulation_steps
        self._counts = trainer.current_flos, trainer.state.num_input_tokens_seen
        trainer.args.gradient_accumulation_steps = NEVER
        self.is_active = True
        return [batches[0]] * self._left + batches, items

    def pass_over(self, trainer: Any) -> torch.Tensor | None:
        """What a batch that is passed over has for a loss; None for the first one that counts."""
        if self._left:
            self._left -= 1
            if self._left == 0:
                trainer.args.gradient_accumulation_steps = self._accumulation
            return torch.zeros((), device=trainer.args.device)
        self.is_active = False
        trainer.current_gradient_accumulation_steps = self._group
        trainer.current_flos, trainer.state.num_input_tokens_seen = self._counts
        return None
