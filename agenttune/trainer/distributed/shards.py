"""Weights that are spread over the ranks (FSDP2 and other DTensors): whole for a moment, this rank's part for good."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn


def is_sharded(tensor: object) -> bool:
    """Whether a tensor is one of several ranks together, as a DTensor is."""
    return hasattr(tensor, "full_tensor")


def local(tensor: Any) -> torch.Tensor:
    """This rank's part; the tensor itself where it is whole."""
    part: torch.Tensor = tensor.to_local() if is_sharded(tensor) else tensor
    return part


def whole(tensor: Any) -> torch.Tensor:
    """All of it; every rank has to ask at the same time."""
    full: torch.Tensor = tensor.full_tensor() if is_sharded(tensor) else tensor
    return full


def has_shards(model: nn.Module) -> bool:
    return any(is_sharded(p) for p in model.parameters())


@contextlib.contextmanager
def whole_weights(module: nn.Module) -> Iterator[dict[int, nn.Parameter]]:
    """Put whole weights in the place of sharded ones; each rank keeps its part of what they are in the end.

    Every rank has to do this at the same time. Costs the memory of the whole weights for as long.

    Yields:
        The parameter itself by the id of its whole stand-in; empty where nothing is sharded.
    """
    slots = [(m, n, p) for m in module.modules() for n, p in m._parameters.items() if is_sharded(p)]
    stand_ins = {id(p): nn.Parameter(whole(p.detach()).clone(), p.requires_grad) for _, _, p in slots if p is not None}
    held = {id(stand_ins[id(p)]): p for _, _, p in slots if p is not None}
    try:
        for owner, name, parameter in slots:
            owner._parameters[name] = stand_ins[id(parameter)]
        yield held
        with torch.no_grad():
            for key, parameter in held.items():
                _write(parameter, next(s for s in stand_ins.values() if id(s) == key))
    finally:
        for owner, name, parameter in slots:
            owner._parameters[name] = parameter


def _write(parameter: Any, values: torch.Tensor) -> None:
    from torch.distributed.tensor import distribute_tensor  # takes a moment to import, and few need it

    parameter.detach().copy_(distribute_tensor(values.detach(), parameter.device_mesh, parameter.placements))
