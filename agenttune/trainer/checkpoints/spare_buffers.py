"""Memory for the next snapshot, made ready in the background.

Fresh pages cost more than the copy itself (measured: two thirds of a first snapshot's time), so after each snapshot in
memory a thread touches as many for the next one.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Mapping
from typing import Any

import torch

from agenttune.trainer.checkpoints.training_state import TrainingState


class Spare:
    """The buffers of one snapshot that is still to be taken."""

    def __init__(self) -> None:
        self._buffers: TrainingState | None = None
        self._thread: threading.Thread | None = None

    def prepare(self, like: TrainingState) -> None:
        """Begin to make buffers ready, of the size of `like`; tensors on accelerators are left out."""
        tensors: list[torch.Tensor] = []
        self._buffers = TrainingState(0, _emptied(like.model, tensors), _emptied(like.optimizer, tensors))
        self._thread = threading.Thread(target=_touch, args=(tensors,), name="agenttune-spare", daemon=True)
        self._thread.start()

    def take(self) -> TrainingState | None:
        """The buffers, or None; the caller owns them."""
        if self._thread is not None:
            self._thread.join()
        buffers, self._buffers, self._thread = self._buffers, None, None
        return buffers


def _emptied(tree: Any, tensors: list[torch.Tensor]) -> Any:
    """The tree's containers with buffers for its tensors, which are added to `tensors`, and nothing else."""
    if isinstance(tree, torch.Tensor):
        if tree.device.type != "cpu" or tree.layout != torch.strided:
            return None
        tensors.append(torch.empty_like(tree, requires_grad=False))
        return tensors[-1]
    if isinstance(tree, Mapping):
        return {key: _emptied(value, tensors) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_emptied(value, tensors) for value in tree]
    return None


def _touch(tensors: list[torch.Tensor]) -> None:
    for tensor in tensors:
        # Not `zero_()`: in a new thread torch would start a second pool of threads for it.
        ctypes.memset(tensor.data_ptr(), 0, tensor.untyped_storage().nbytes())
