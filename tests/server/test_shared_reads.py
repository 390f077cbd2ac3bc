"""Ten pages that ask for the same cost little more than one, and none is told what was before it asked."""

from __future__ import annotations

import asyncio
import threading

import pytest

from agenttune.server.shared_reads import SharedReads


class Slow:
    """A read that tells when it has begun and waits until it may end; its answer is the count of changes until then."""

    def __init__(self) -> None:
        self.begun, self.may_end = threading.Semaphore(0), threading.Semaphore(0)
        self.changes = self.times = 0

    def read(self) -> int:
        self.times += 1
        seen = self.changes
        self.begun.release()
        self.may_end.acquire()
        return seen


def test_who_asks_while_a_read_is_under_way_shares_the_next_one_and_sees_all_changes_until_then() -> None:
    slow, reads = Slow(), SharedReads[int]()

    async def ask() -> tuple[int, list[int]]:
        first = asyncio.create_task(reads.answer("info", slow.read))
        await asyncio.to_thread(slow.begun.acquire)
        slow.changes += 1  # somebody's command
        others = [asyncio.create_task(reads.answer("info", slow.read)) for _ in range(9)]
        await asyncio.sleep(0)
        slow.may_end.release()
        slow.may_end.release()
        return await first, await asyncio.gather(*others)

    assert asyncio.run(ask()) == (0, [1] * 9)
    assert slow.times == 2


def test_one_that_leaves_takes_nothing_from_the_others_and_a_failure_is_told_to_all() -> None:
    slow, reads = Slow(), SharedReads[int]()

    def fail() -> int:
        slow.read()
        raise ValueError("the run is gone")

    async def ask() -> list[object]:
        leaving, staying, third = (asyncio.create_task(reads.answer("info", fail)) for _ in range(3))
        await asyncio.to_thread(slow.begun.acquire)
        leaving.cancel()
        slow.may_end.release()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        return list(await asyncio.gather(staying, third, return_exceptions=True))

    found = asyncio.run(ask())
    assert [str(error) for error in found] == ["the run is gone"] * 2
    assert slow.times == 1
