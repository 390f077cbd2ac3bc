"""The processes of a distributed run: rank 0 reads the log, and all apply the same commands at the same step."""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.distributed as dist

from agenttune.protocol.proposals import CommandRecord


class CommandBroadcast(Protocol):
    """Shares the commands at hand at a step boundary."""

    leads: bool
    """Whether this process reads and writes the log."""

    def share(self, records: list[CommandRecord]) -> list[CommandRecord]:
        """The leader's records, on every rank, in the same order."""
        ...

    def agree(self, flag: bool) -> bool:
        """The leader's flag, on every rank."""
        ...

    def tell(self, text: str) -> str:
        """The leader's text, on every rank."""
        ...

    def close(self) -> None:
        """The run has ended."""
        ...


class SingleProcess:
    """One process."""

    leads = True

    def share(self, records: list[CommandRecord]) -> list[CommandRecord]:
        return records

    def agree(self, flag: bool) -> bool:
        return flag

    def tell(self, text: str) -> str:
        return text

    def close(self) -> None:
        """Nothing to give back."""


class Distributed:
    """`torch.distributed`: a count each step, and the commands themselves only when there are any.

    Runs on a gloo group of its own, so that waiting in a pause does not occupy an accelerator.
    """

    def __init__(self) -> None:
        self._group: Any = dist.new_group(backend="gloo")
        self.leads = dist.get_rank() == 0

    def share(self, records: list[CommandRecord]) -> list[CommandRecord]:
        count = torch.tensor([len(records)])
        dist.broadcast(count, src=0, group=self._group)
        if count.item() == 0:
            return []
        texts: list[str | None] = [r.model_dump_json() for r in records] if self.leads else [None] * int(count)
        dist.broadcast_object_list(texts, src=0, group=self._group)
        return [CommandRecord.model_validate_json(text) for text in texts if text is not None]

    def agree(self, flag: bool) -> bool:
        shared = torch.tensor([int(flag)])
        dist.broadcast(shared, src=0, group=self._group)
        return bool(shared.item())

    def tell(self, text: str) -> str:
        texts = [text]
        dist.broadcast_object_list(texts, src=0, group=self._group)
        return texts[0]

    def close(self) -> None:
        # A gloo group that is still there when the interpreter exits may abort the process (torch 2.13: about 1 in 10).
        if self._group is not None and dist.is_initialized():
            dist.destroy_process_group(self._group)
        self._group = None


def make_broadcast() -> CommandBroadcast:
    """`Distributed` in a run of more than one process, else `SingleProcess`."""
    return Distributed() if is_distributed() else SingleProcess()


def is_distributed() -> bool:
    """Whether this run has more than one process."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def leads_here() -> bool:
    """Whether this process is the one that records the run."""
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0


def share_tensors(tensors: list[torch.Tensor]) -> None:
    """Give every rank the values of rank 0, in place: each drew its own random numbers."""
    if not is_distributed():
        return
    for tensor in dict.fromkeys(tensors):
        whole = tensor.detach().contiguous()
        dist.broadcast(whole, src=0)
        with torch.no_grad():
            tensor.copy_(whole)
