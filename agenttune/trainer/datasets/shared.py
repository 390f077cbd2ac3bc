"""Values that a training process changes and its data-loader workers see, at once and at next to no cost.

They lie in a block of shared memory, as a pickle, twice: a change is written into the half that nobody reads, and a
single number then says which half counts. A writer killed at any moment leaves the old values, and a reader that finds
the number unchanged has nothing to do.
"""

from __future__ import annotations

import pickle
import zlib
from typing import Any

import torch
from torch.utils.data import get_worker_info

from agenttune.errors import UserError

SMALLEST_HALF_BYTES = 1 << 15
"""Room for values at least (guess: the weights of a thousand sources)."""
ROOM_TIMES = 8
"""How much the first values may grow (guess). The block never moves: a worker could not follow it."""
_HEAD_WORDS = 8
_VERSION, _LENGTHS, _SUMS = 0, (1, 3), (2, 4)


class SharedValues:
    """A dictionary of plain values, written by the process that made it and read by its workers.

    Forked and spawned workers share it; a copy (`copy.deepcopy`, a pickle kept in a file) is independent.

    Args:
        values: What it holds at first.
    """

    def __init__(self, values: dict[str, Any]) -> None:
        payload = pickle.dumps(values)
        half = max(SMALLEST_HALF_BYTES, ROOM_TIMES * len(payload))
        half += -half % 8
        self._attach(torch.zeros(8 * _HEAD_WORDS + 2 * half, dtype=torch.uint8))
        self._put(payload)

    def _attach(self, block: Any) -> None:
        self._block = block if block.is_shared() else block.share_memory_()
        raw = memoryview(self._block.numpy())
        self._head = raw[: 8 * _HEAD_WORDS].cast("B").cast("q")
        body = raw[8 * _HEAD_WORDS :]
        self._half_bytes = len(body) // 2
        self._halves = (body[: self._half_bytes], body[self._half_bytes :])
        self._seen = -1
        self._values: dict[str, Any] = {}

    def current(self) -> dict[str, Any]:
        """The values in force: the same object until they change. Not to be written to."""
        if self._head[_VERSION] != self._seen:
            self._refresh()
        return self._values

    def reread(self) -> dict[str, Any]:
        """The values as they lie in shared memory, decoded anew."""
        self._seen = -1
        return self.current()

    def write(self, values: dict[str, Any]) -> None:
        """Put other values in force, all at once.

        Raises:
            UserError: They are too large, or this is a data-loader worker; nothing has changed.
        """
        if get_worker_info() is not None:
            raise UserError(
                "a runtime parameter cannot be set inside a data-loader worker: the other workers and the training "
                "process would not agree; set it in the training process, or do not declare it a runtime parameter"
            )
        payload = pickle.dumps(values)
        if len(payload) > self._half_bytes:
            raise UserError(
                f"the runtime parameters would take {len(payload)} bytes; there is room for {self._half_bytes}",
                allowed={"maximum_bytes": self._half_bytes},
            )
        self._put(payload)

    def _put(self, payload: bytes) -> None:
        version = self._head[_VERSION] + 1
        side = version % 2
        self._halves[side][: len(payload)] = payload
        self._head[_LENGTHS[side]] = len(payload)
        self._head[_SUMS[side]] = zlib.crc32(payload)
        self._head[_VERSION] = version

    def _refresh(self) -> None:
        """Read until the checksum fits: another change may be under way, or on its way through the caches."""
        while True:
            version = self._head[_VERSION]
            side = version % 2
            payload = bytes(self._halves[side][: self._head[_LENGTHS[side]]])
            if zlib.crc32(payload) == self._head[_SUMS[side]] and version == self._head[_VERSION]:
                self._values, self._seen = pickle.loads(payload), version
                return

    def __getstate__(self) -> Any:
        # A tensor travels to a spawned worker as shared memory, and into any other pickle as its bytes.
        return self._block

    def __setstate__(self, block: Any) -> None:
        self._attach(block)

    def __deepcopy__(self, memo: dict[int, Any]) -> SharedValues:
        return SharedValues(pickle.loads(pickle.dumps(self.current())))
