"""How ranks of a distributed run failed, and which of them was the first: the others fail because of it."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable
from typing import NamedTuple

from agenttune.protocol.text import clean

TRANSPORT = re.compile(
    r"gloo|NCCL|TCPStore|ProcessGroup|Connection (closed|reset|refused)|Broken pipe|recvValue failed|sendBytes failed|"
    r"collective operation timeout|DistBackendError|DistNetworkError|DistStoreError",
    re.IGNORECASE,
)
"""What the error of a rank looks like that has lost the others."""
TEXT = 300


class RankFailure(NamedTuple):
    """One rank that failed.

    Attributes:
        rank: Its number.
        pid: Its process.
        exit_status: Negative for a signal.
        message: Its exception, or what its launcher says.
        at_s: When, in Unix time; to the second.
        host: Its machine.
    """

    rank: int
    pid: int
    exit_status: int
    message: str = ""
    at_s: float = 0.0
    host: str = ""

    @property
    def is_lost_contact(self) -> bool:
        """Whether it failed because it lost the others."""
        return self.exit_status > 0 and bool(TRANSPORT.search(self.message))

    @property
    def words(self) -> str:
        """What happened to it, as the end of a sentence."""
        where = f" (process {self.pid}{f' on {self.host}' if self.host else ''})"
        if self.exit_status < 0:
            return f"rank {self.rank}{where} was killed by {signal_words(-self.exit_status)}"
        if self.is_lost_contact:
            return f"rank {self.rank}{where} lost its connection to the other ranks: {clean(self.message, TEXT)}"
        if self.message:
            return f"rank {self.rank}{where} raised {clean(self.message, TEXT)}"
        return f"rank {self.rank}{where} ended with exit code {self.exit_status}"


def signal_words(number: int) -> str:
    """A signal's name, with what mostly sends it."""
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
    hints = {
        "SIGKILL": " (the kernel does this when memory runs out)",
        "SIGABRT": " (a library gave up; its message is in the output)",
        "SIGSEGV": " (a library touched memory that is not its own)",
    }
    return name + hints.get(name, "")


def first_failure(failures: Iterable[RankFailure]) -> RankFailure | None:
    """The failure that caused the others; None if there is none.

    A rank that a signal ended, or that raised an error of its own, comes before those that lost contact; SIGTERM is
    what a launcher sends to the rest.
    """

    def order(failure: RankFailure) -> tuple[bool, bool, float, int]:
        return failure.is_lost_contact, failure.exit_status == -signal.SIGTERM, failure.at_s, failure.rank

    return min(failures, key=order, default=None)


def contact_lost(text: str) -> str:
    """An error of lost contact in plain words, with the raw text behind; empty for any other error."""
    if not TRANSPORT.search(text):
        return ""
    return f"another rank ended, was killed or is stuck: this one lost its connection to it ({clean(text, TEXT)})"
