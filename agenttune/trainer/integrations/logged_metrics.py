"""Metrics as a loop hands them over: numbers and one-element tensors, by name."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch

from agenttune.errors import UserError
from agenttune.store.metric_table import MetricRow

Number = float | int | torch.Tensor
Given = Mapping[str, Number] | Number | None
"""Metrics by name, or a loss alone, or nothing."""

EVAL_PREFIX = "eval_"


def taken(metrics: Given) -> dict[str, float | torch.Tensor]:
    """Metrics of a step as they are now; tensors stay on their device, nothing waits for it.

    A tensor is copied, as loops write into a running loss again before the log's thread has read it.

    Raises:
        UserError: A name is no text, or a value is neither a number nor a one-element tensor.
    """
    if metrics is None:
        return {}
    named = metrics if isinstance(metrics, Mapping) else {"loss": metrics}
    return {_name(name): _value(name, value) for name, value in named.items()}


def _name(name: object) -> str:
    if not isinstance(name, str) or not name:
        raise UserError(f"a metric's name is a text such as 'loss', not {name!r}")
    return name


def _value(name: str, value: Any) -> float | torch.Tensor:
    if isinstance(value, torch.Tensor):
        if value.numel() != 1 or value.is_complex():
            raise UserError(f"metric {name!r} has shape {tuple(value.shape)}; give one number, such as its mean()")
        own = value.detach()
        return own.clone() if own.dim() == 0 else own.reshape(()).clone()
    try:
        return float(value)
    except (TypeError, ValueError):
        kind = type(value).__name__
        raise UserError(f"metric {name!r} is a {kind}; give a number or a tensor of one element") from None


def evaluation_row(step: int, metrics: Mapping[str, Number], branch: str = "main") -> MetricRow:
    """The row of an evaluation; its metrics get the prefix `eval_`, unless they have it.

    Raises:
        UserError: As for `taken`.
    """
    if not isinstance(metrics, Mapping):
        raise UserError(f"an evaluation returns metrics by name, such as {{'loss': 0.5}}, not {metrics!r:.80}")
    named = {name if name.startswith(EVAL_PREFIX) else EVAL_PREFIX + name: v for name, v in taken(metrics).items()}
    return MetricRow(step, time.time(), {name: float(value) for name, value in named.items()}, "eval", branch)
