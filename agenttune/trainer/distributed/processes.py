"""Whether a run has several processes, and which of them records it."""

from __future__ import annotations

import torch
import torch.distributed as dist


def is_distributed() -> bool:
    """Whether this run has more than one process."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def share_tensors(tensors: list[torch.Tensor]) -> None:
    """Give every rank the values of rank 0, in place: each drew its own random numbers."""
    if not is_distributed():
        return
    for tensor in dict.fromkeys(tensors):
        whole = tensor.detach().contiguous()
        dist.broadcast(whole, src=0)
        with torch.no_grad():
            tensor.copy_(whole)
