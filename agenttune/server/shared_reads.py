"""Equal reads that are asked for in the same moment are answered once, however many pages look at a run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from starlette.concurrency import run_in_threadpool

T = TypeVar("T")


class SharedReads(Generic[T]):
    """Reads under way, for one event loop.

    Whoever asks while an answer is being read gets the next one, together with all others who ask meanwhile: a read
    never begins before it is asked for, so that who has sent a command sees what it changed.
    """

    def __init__(self) -> None:
        self._under_way: dict[Hashable, asyncio.Task[T]] = {}
        self._next: dict[Hashable, asyncio.Task[T]] = {}

    async def answer(self, key: Hashable, read: Callable[[], T]) -> T:
        """What `read` returns or raises, done in a thread.

        Args:
            key: Of all reads that have the same answer.
            read: Does it.
        """
        if key not in self._next:
            task = self._next[key] = asyncio.create_task(self._in_turn(key, read))
            task.add_done_callback(_take_note)
        # Whoever asks may leave; the others still want it.
        return await asyncio.shield(self._next[key])

    async def _in_turn(self, key: Hashable, read: Callable[[], T]) -> T:
        before = self._under_way.get(key)
        if before is not None:
            await asyncio.wait([before])
        mine = self._under_way[key] = self._next.pop(key)
        try:
            return await run_in_threadpool(read)
        finally:
            if self._under_way[key] is mine:
                del self._under_way[key]


def _take_note(task: asyncio.Task[T]) -> None:
    """That a read failed is told to those who asked; if all have left, nobody need be told."""
    if not task.cancelled():
        task.exception()
