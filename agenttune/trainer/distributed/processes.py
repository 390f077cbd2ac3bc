"""Whether other processes train the same model, and giving all of them the same tensors."""

from __future__ import annotations

import torch
import torch.distributed as dist


def is_spread() -> bool:
    """Whether this run has more than one process."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def share(tensors: list[torch.Tensor]) -> None:
    """Give every rank the values of rank 0: each drew its own random numbers."""
    if not is_spread():
        return
    for tensor in dict.fromkeys(tensors):
        whole = tensor.detach().contiguous()
        dist.broadcast(whole, src=0)
        with torch.no_grad():
            tensor.copy_(whole)
