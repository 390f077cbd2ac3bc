"""How the ranks of a distributed run agree on what to apply: rank 0 reads the log, all apply the same."""

from __future__ import annotations

from typing import Protocol

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


class SingleProcess:
    """One process."""

    leads = True

    def share(self, records: list[CommandRecord]) -> list[CommandRecord]:
        return records

    def agree(self, flag: bool) -> bool:
        return flag

    def tell(self, text: str) -> str:
        return text


class Distributed:
    """`torch.distributed`: a count each step, and the commands themselves only when there are any.

    Runs on a gloo group of its own, so that waiting in a pause does not occupy an accelerator.
    """

    def __init__(self) -> None:
        self._group = dist.new_group(backend="gloo")
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


def make_broadcast() -> CommandBroadcast:
    """`Distributed` in a distributed run of more than one process, else `SingleProcess`."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        return Distributed()
    return SingleProcess()


def leads_here() -> bool:
    """Whether this process is the one that records the run."""
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0
