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
APART = re.compile(r"Rank(sApart|Ended): ")
"""How our own errors of that kind begin: it met the loss within one of our exchanges, not in one of the loop's."""
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
        return self.exit_status > 0 and bool(APART.match(self.message) or TRANSPORT.search(self.message))

    def words(self, by_us: bool = False) -> str:
        """What happened to it, as the end of a sentence.

        Args:
            by_us: We have ended the run, so that nobody else is to be blamed for a SIGKILL.
        """
        where = f" (process {self.pid}{f' on {self.host}' if self.host else ''})"
        if self.exit_status < 0:
            return f"rank {self.rank}{where} was killed by {signal_words(-self.exit_status, by_us)}"
        if self.is_lost_contact and not APART.match(self.message):
            return f"rank {self.rank}{where} lost its connection to the other ranks: {clean(self.message, TEXT)}"
        if self.message:
            return f"rank {self.rank}{where} raised {clean(self.message, TEXT)}"
        return f"rank {self.rank}{where} ended with exit code {self.exit_status}"


def signal_words(number: int, by_us: bool = False) -> str:
    """A signal's name, with what mostly sends it; of SIGKILL not where we have sent it."""
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
    hints = {
        "SIGKILL": " (the kernel does this when memory runs out)",
        "SIGABRT": " (a library gave up; its message is in the output)",
        "SIGSEGV": " (a library touched memory that is not its own)",
    }
    return name if by_us and number == signal.SIGKILL else name + hints.get(name, "")


def first_failure(failures: Iterable[RankFailure]) -> RankFailure | None:
    """The failure that caused the others; None if there is none.

    A rank that a signal ended, or that left an error of its own, comes first; then one that says nothing, or was ended
    by SIGABRT, as NCCL's watchdog does when the others are gone; then SIGTERM, which is what a launcher sends to the
    rest; last those that lost contact, who noticed it before their launcher did and so have the earliest times.
    """

    def order(failure: RankFailure) -> tuple[int, float, int]:
        if failure.is_lost_contact:
            suspicion = 3
        elif failure.exit_status == -signal.SIGTERM:
            suspicion = 2
        elif failure.exit_status == -signal.SIGABRT or (failure.exit_status > 0 and not failure.message):
            suspicion = 1
        else:
            suspicion = 0
        return suspicion, failure.at_s, failure.rank

    return min(failures, key=order, default=None)


def contact_lost(text: str) -> str:
    """An error of lost contact in plain words, with the raw text behind; empty for any other error."""
    if not TRANSPORT.search(text):
        return ""
    return f"another rank ended, was killed or is stuck: this one lost its connection to it ({clean(text, TEXT)})"
