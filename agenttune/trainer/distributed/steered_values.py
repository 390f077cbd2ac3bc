"""All values that commands can change, as this rank has them, to be compared with those of the others.

Compared are texts, and mostly only a sum over them. What differs between ranks from the start, such as a knob that
reads something of its own rank, is nobody's mistake and is left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agenttune.trainer.captured_values import capture_values
from agenttune.trainer.lr.optimizers import read_value, tunable_names
from agenttune.trainer.run_state import RunState


class SteeredValues:
    """Reads them.

    Attributes:
        own: Names of those that each rank has for itself.
    """

    def __init__(self, run_state: RunState) -> None:
        self._run_state = run_state
        self.own: frozenset[str] = frozenset()

    def read(self) -> dict[str, str]:
        """By dotted name."""
        state, optimizer = self._run_state, self._run_state.adapter.optimizer()
        found: dict[str, Any] = {name: read_value(optimizer, name) for name in ("lr", *tunable_names(optimizer))}
        found["lr (base)"] = state.schedule().base()
        found |= capture_values(state)
        return {name: value for name, value in _flat(found) if name not in self.own}

    def digest(self) -> str:
        """A sum over all of them."""
        return f"{self.number():016x}"

    def number(self) -> int:
        """The same as a number of 63 bits."""
        sum_over = hashlib.blake2b(repr(sorted(self.read().items())).encode(), digest_size=8).digest()
        return int.from_bytes(sum_over, "big") >> 1

    def learn_own(self, by_rank: Sequence[Mapping[str, str]]) -> list[str]:
        """At the start: leave out what differs already.

        Returns:
            Its names.
        """
        found = [*self.differing(by_rank)]
        self.own |= frozenset(found)
        return found

    def differing(self, by_rank: Sequence[Mapping[str, str]]) -> dict[str, int]:
        """Names of what is not the same on all ranks, each with the first rank whose value is not that of rank 0.

        What some ranks do not have at all, such as a knob that was registered on one only, cannot be compared, and is
        left out from now on.
        """
        everywhere = set.intersection(*map(set, by_rank))
        self.own |= frozenset(name for values in by_rank for name in values) - everywhere
        first = by_rank[0]
        found = {
            name: next((rank for rank, values in enumerate(by_rank) if values[name] != first[name]), 0)
            for name in first
            if name in everywhere
        }
        return {name: rank for name, rank in found.items() if rank}


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        full = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{full}.")
        else:
            yield full, repr(value)


def said(by_rank: Sequence[Mapping[str, str]], differences: Mapping[str, int], most: int = 3) -> str:
    """Differences in words, naming ranks."""
    parts = [
        f"{name} is {by_rank[rank][name]} on rank {rank} and {by_rank[0][name]} on rank 0"
        for name, rank in list(differences.items())[:most]
    ]
    more = len(differences) - most
    return "; ".join(parts) + (f"; and {more} more" if more > 0 else "")
