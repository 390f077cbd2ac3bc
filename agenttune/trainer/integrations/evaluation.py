"""An evaluation between two steps that leaves no trace in training."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from agenttune.trainer.checkpoints.training_state import put_rng, read_rng


@contextlib.contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients; afterwards each layer's mode and all random states are as they were.

    Layer by layer, as some keep frozen layers in evaluation mode while they train.
    """
    modes = [(module, module.training) for module in model.modules()]
    rng = read_rng()
    try:
        model.eval()
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        put_rng(rng)
