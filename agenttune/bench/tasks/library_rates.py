"""Rates that follow a value, by torch's and transformers' own schedulers.

The schedulers set the rate of an optimizer; here it is one that optimizes nothing, whose rate is then read.
"""

from __future__ import annotations

from typing import Literal, Protocol

import torch

from agenttune.errors import ConfigError


class ValueScheduler(Protocol):
    """What ReduceLROnPlateau and GreedyLR have in common."""

    def step(self, metrics: float) -> None:
        """One more value."""


class LibraryRate:
    """A rate as a scheduler of a library sets it."""

    def __init__(self, optimizer: torch.optim.Optimizer, scheduler: ValueScheduler) -> None:
        self._optimizer = optimizer
        self._scheduler = scheduler

    def after(self, value: float) -> float:
        """The rate after one more value."""
        self._scheduler.step(value)
        return float(self._optimizer.param_groups[0]["lr"])


def reduce_on_plateau(
    lr: float, direction: Literal["minimize", "maximize"], patience: int, factor: float
) -> LibraryRate:
    """By `torch.optim.lr_scheduler.ReduceLROnPlateau`."""
    optimizer = _stand_in(lr)
    mode: Literal["min", "max"] = "min" if direction == "minimize" else "max"
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode, factor=factor, patience=patience)
    return LibraryRate(optimizer, scheduler)


def greedy_lr(lr: float, patience: int, factor: float, window: int, min_lr: float, max_lr: float) -> LibraryRate:
    """By `transformers.GreedyLR`, on a value that should fall.

    Raises:
        ConfigError: This transformers has none.
    """
    try:
        from transformers import GreedyLR
    except ImportError as error:
        raise ConfigError(
            "greedy_schedule needs the GreedyLR of transformers 5: pip install -U transformers"
        ) from error
    optimizer = _stand_in(lr)
    scheduler = GreedyLR(
        optimizer, factor=factor, patience=patience, smooth=True, window_size=window, min_lr=min_lr, max_lr=max_lr
    )
    return LibraryRate(optimizer, scheduler)


def _stand_in(lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
