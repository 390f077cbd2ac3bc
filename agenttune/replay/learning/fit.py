"""Fits an ensemble to rows: small networks, each of which never sees one of the tasks, trained side by side in NumPy.

What a member has not seen it has to foretell from other tasks, so that members agree on what holds for all, and not on
what they know by heart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from agenttune.policy.learned.ensemble import Ensemble
from agenttune.policy.learned.features import NAMES, Numbers
from agenttune.replay.learning.moments import TrainingExample

Doubles = NDArray[np.float64]
Places = NDArray[np.int64]


@dataclass(frozen=True)
class Fitting:
    """How it is fitted (tuned by what whole tasks that were held out came to).

    Attributes:
        members: Networks; every task is left out by as many as can be.
        hidden: Units of the two hidden layers.
        steps: Of Adam.
        rows: Of one step and member.
        lr: Its rate at the beginning; it falls to nothing as a cosine.
        decay: Weight decay, of each step as a part of the rate.
        blind: Part of the inputs that a step does not see, so that nothing hangs on a single figure.
    """

    members: int = 16
    hidden: tuple[int, int] = (32, 16)
    steps: int = 500
    rows: int = 64
    lr: float = 3e-3
    decay: float = 0.1
    blind: float = 0.1
    seed: int = 0


def fit(
    moments: Sequence[TrainingExample],
    made: Mapping[str, Any],
    how: Fitting = Fitting(),
    begin: Ensemble | None = None,
) -> Ensemble:
    """An ensemble of rows.

    Args:
        moments: The rows, of several runs.
        made: Told in the weights' file.
        how: The fit.
        begin: Goes on from its weights, which it is held to by `how.decay`, instead of from random ones held to 0.
    """
    source = np.random.default_rng(how.seed)
    x, y = table(moments)
    seen = _seen_by(moments, how.members if begin is None else begin.members, source)
    start = _random(how, source) if begin is None else [*begin.weights, *begin.biases]
    anchor = [np.zeros_like(p) if begin is None else p.copy() for p in start]
    parameters = [p.copy() for p in start]
    momenta = [_Momenta(np.zeros_like(p), np.zeros_like(p)) for p in parameters]
    for step in range(how.steps):
        lr = how.lr * 0.5 * (1 + np.cos(np.pi * step / how.steps))
        places = np.stack([source.choice(own, how.rows) for own in seen])
        shown = x[places] * (source.random(x[places].shape) >= how.blind)
        gradients = _gradients(parameters, shown.astype(np.float32), y[places])
        for place, gradient in enumerate(gradients):
            toward = momenta[place].taken(gradient, step + 1)
            parameters[place] -= lr * (toward + how.decay * (parameters[place] - anchor[place]))
    return Ensemble(parameters[:3], parameters[3:], made)


@dataclass
class _Momenta:
    """Adam's two, of one array."""

    mean: Numbers
    square: Numbers

    def taken(self, gradient: Numbers, step: int) -> Numbers:
        """The way to go, after so many steps."""
        self.mean += 0.1 * (gradient - self.mean)
        self.square += 0.01 * (gradient * gradient - self.square)
        scale = np.sqrt(self.square / (1 - 0.99**step)) + 1e-8
        return cast(Numbers, self.mean / (1 - 0.9**step) / scale)


def table(moments: Sequence[TrainingExample]) -> tuple[Numbers, Numbers]:
    """Inputs, [rows, columns], and gains, [rows]."""
    x = np.concatenate([moment.inputs for moment in moments])
    return x, np.array([moment.gain for moment in moments], dtype=np.float32)


def _seen_by(moments: Sequence[TrainingExample], members: int, source: np.random.Generator) -> list[Places]:
    """The rows of each member: of runs drawn with replacement, but for those of one task where there are several."""
    tasks = sorted({moment.task for moment in moments})
    found = []
    for member in range(members):
        left_out = tasks[member % len(tasks)] if len(tasks) > 1 else None
        by_run: dict[str, list[int]] = {}
        for place, moment in enumerate(moments):
            if moment.task != left_out:
                by_run.setdefault(moment.run, []).append(place)
        runs = list(by_run.values())
        drawn = source.integers(len(runs), size=len(runs))
        found.append(np.array([place for run in drawn for place in runs[run]], dtype=np.int64))
    return found


def _random(how: Fitting, source: np.random.Generator) -> list[Numbers]:
    sizes = [len(NAMES), *how.hidden, 1]
    pairs = list(pairwise(sizes))
    weights = [source.normal(0, (2 / before) ** 0.5, (how.members, before, after)) for before, after in pairs]
    weights[-1] *= 0.1
    biases = [np.zeros((how.members, 1, after)) for _, after in pairs]
    return [p.astype(np.float32) for p in (*weights, *biases)]


def _gradients(parameters: Sequence[Numbers], x: Numbers, y: Numbers) -> list[Numbers]:
    """Of the mean squared error, by weights and biases as they come.

    Args:
        x: [members, rows, columns].
        y: [members, rows].
    """
    weights, biases = parameters[:3], parameters[3:]
    first = np.maximum(x @ weights[0] + biases[0], 0)
    second = np.maximum(first @ weights[1] + biases[1], 0)
    told = np.tanh(second @ weights[2] + biases[2])
    out = 2 * (told - y[..., None]) * (1 - told * told) / y.shape[1]
    into_second = (out @ weights[2].swapaxes(1, 2)) * (second > 0)
    into_first = (into_second @ weights[1].swapaxes(1, 2)) * (first > 0)
    by_layer = [(x, into_first), (first, into_second), (second, out)]
    return [
        *(before.swapaxes(1, 2) @ after for before, after in by_layer),
        *(after.sum(axis=1, keepdims=True) for _, after in by_layer),
    ]
