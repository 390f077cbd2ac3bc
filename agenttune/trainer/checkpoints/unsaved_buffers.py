"""What of a model training may change and no state dict holds: buffers that are not saved, generators of its layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from agenttune.trainer.checkpoints import generators

MOST_BYTES = 256 * 2**20
"""Of such buffers; what is beyond stays as it is, and the ack says so (guess: masks and tables are far smaller)."""


def unsaved_buffers(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Buffers that the model's state dict leaves out."""
    for name, module in model.named_modules():
        for key in sorted(module._non_persistent_buffers_set):
            buffer = module._buffers.get(key)
            if buffer is not None:
                yield (f"{name}.{key}" if name else key), buffer


def model_extra(model: nn.Module) -> dict[str, Any]:
    """The states as they are: copies, so that training does not change them."""
    left = MOST_BYTES
    buffers: dict[str, torch.Tensor] = {}
    for name, buffer in unsaved_buffers(model):
        left -= buffer.numel() * buffer.element_size()
        if left >= 0:
            buffers[name] = buffer.detach().clone()
    return {"buffers": buffers, "generators": generators.read(generators.find_in_model(model))}


def put_model_extra(model: nn.Module, extra: Mapping[str, Any]) -> None:
    """Put them back, those there are."""
    saved = extra.get("buffers", {})
    with torch.no_grad():
        for name, buffer in unsaved_buffers(model):
            if name in saved and saved[name].shape == buffer.shape:
                buffer.copy_(saved[name])
    generators.put(generators.find_in_model(model), extra.get("generators", {}))


def lost(model: nn.Module, extra: Mapping[str, Any]) -> list[str]:
    """What a state does not tell of this model, so that it stays as it is."""
    saved = extra.get("buffers", {})
    names = [f"buffer {n}" for n, b in unsaved_buffers(model) if n not in saved or saved[n].shape != b.shape]
    known = extra.get("generators", {})
    return names + [f"generator {n}" for n in generators.find_in_model(model) if n not in known]
