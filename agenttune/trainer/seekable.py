"""Where the training data stands, and the way to put it elsewhere, for a loop that asks a data loader for batches.

The loader's class is extended in place, so that it stays what it was for whoever else looks at it. With nothing asked
it hands out its own batches. Asked to seek, it puts the training state back between two steps and goes on from there:
in the middle of an epoch the random states come last, after the first batch was fetched, at the start of one they
come first; so they are in the original run (measured: bit-identical losses with shuffling and dropout).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from accelerate import skip_first_batches
from torch.utils.data import DataLoader

from agenttune.errors import NotSupported
from agenttune.trainer.adapter import not_ours
from agenttune.trainer.state import put_rng, read_rng

_set_class = object.__dict__["__class__"].__set__
"""Accelerate's loaders say that they are of another class, by a property that plain assignment does not get past."""


@dataclass
class Seek:
    """A place to continue from.

    Attributes:
        epoch: Epoch of the data, from 0.
        batch: Batches of that epoch that are done.
        rng: Random states to put back.
        arrive: Puts everything else back; called between two steps, before a batch is drawn.
    """

    epoch: int
    batch: int
    rng: dict[str, Any]
    arrive: Callable[[], None]


class Feed:
    """Hands out the batches of a loader, and knows which they are.

    Attributes:
        epoch: Epoch of the data that is being trained on, from 0.
        batch: Batches of it that were handed out.
        handed: Batches handed out in the loop's epoch.
        has_jumped: Whether the loop's own count of epochs no longer tells where the data stands.
    """

    def __init__(self) -> None:
        self.epoch = 0
        self.batch = 0
        self.handed = 0
        self.has_jumped = False
        self._seek: Seek | None = None
        self._loader: Any = None
        self._endless = False
        self._source: Iterator[Any] | None = None
        self._redraw = False
        self._keeps_epoch = False
        self._is_foreign = False
        self.is_over: Callable[[], bool] = lambda: False
        """Whether training has ended, asked after an arrival."""
        self.failed: Callable[[Exception], bool] = not_ours
        """Told of an error of the loader; whether the data is put elsewhere because of it, by `seek`."""

    # -- what the loop tells ----------------------------------------------------------------------------------

    def attach(self, loader: Any) -> None:
        """Follow the loader that a loop is going to ask for batches."""
        self._loader, self._endless = None, False
        if not isinstance(loader, DataLoader):
            return
        extended = type(type(loader).__name__, (_Followed, type(loader)), {"feed": self})
        try:
            _set_class(loader, extended)
        except TypeError:  # a class of another make; its runs cannot go back
            return
        self._loader = loader

    def refusal(self) -> str:
        """Why the data cannot be put elsewhere; empty if it can."""
        return "" if self._loader is not None else "the training data does not come from a torch DataLoader"

    @property
    def workers(self) -> int:
        """Processes that fetch data ahead."""
        return int(getattr(self._loader, "num_workers", 0))

    def begin(self, epoch: int, batch: int) -> None:
        """Training begins here; a resumed run does not begin at the start."""
        self.epoch, self.batch = epoch, batch
        self.has_jumped = self._redraw = False
        self._seek = self._source = None
        self._keeps_epoch = True
        self._is_foreign = batch > 0

    def start_epoch(self) -> None:
        """The loop starts an epoch of its own."""
        self.handed = 0
        if self._keeps_epoch:
            self._keeps_epoch = False
            return
        self._is_foreign = False
        if self._seek is None and not self._endless:
            self.epoch, self.batch = self.epoch + 1, 0

    @property
    def must_end_epoch(self) -> bool:
        """Whether the loop has to end its epoch before the data can be put elsewhere."""
        return self.handed > 0 or self._is_foreign

    @property
    def is_open(self) -> bool:
        """Whether the loop draws from here (the first epoch of a resumed run comes from another loader)."""
        return not self._is_foreign

    # -- what is asked ----------------------------------------------------------------------------------------

    def seek(self, seek: Seek) -> None:
        """Continue elsewhere when the loop next asks; if `must_end_epoch`, it has to end its epoch for that.

        Raises:
            NotSupported: The data cannot be put elsewhere.
        """
        if self.refusal():
            raise NotSupported(f"cannot go back: {self.refusal()}")
        self._seek = seek

    @property
    def is_seeking(self) -> bool:
        return self._seek is not None

    def redraw(self) -> None:
        """Fetch again what was fetched ahead, before the next batch is handed out."""
        self._redraw = True

    def count(self, batches: int) -> None:
        """Take note of batches that did not come from here: the first epoch of a resumed run."""
        if not self.is_open:
            self.batch += batches
            self.handed += batches

    def replace(self, loader: Any, keeps_place: bool = False) -> None:
        """Hand out another loader's batches from the next one on, epoch after epoch: the loop planned for the old."""
        self._loader, self._endless = loader, True
        self.has_jumped = self._redraw = True
        if not keeps_place:
            self.epoch, self.batch = self.epoch + 1, 0

    # -- handing out ------------------------------------------------------------------------------------------

    def batches(self, plain: Callable[[], Iterator[Any]]) -> Iterator[Any]:
        """The batches of one epoch of the loop.

        Args:
            plain: Opens the loader that the loop asks, as it is.
        """
        if self._seek is not None:
            self._source = self._arrive(plain)
        elif self._source is None or not self._endless:
            self._source = self._open(plain)
        while not self.is_over():
            if self._seek is not None and not self.handed:
                self._source = self._arrive(plain)
                continue
            if self._redraw:
                self._source = self._reopened(plain)
            batch = self._fetch(self._source)
            if not batch and self._endless and not self.is_seeking:
                self.epoch, self.batch = self.epoch + 1, 0
                self._source = self._open(plain)
                batch = self._fetch(self._source)
            if batch:
                self.batch += 1
                self.handed += 1
                yield batch[0]
            elif self.handed or not self.is_seeking:
                return

    def _fetch(self, source: Iterator[Any]) -> list[Any]:
        """The next batch, in a list; empty if there is none, or if it failed and the data is put elsewhere."""
        try:
            return _first(source)
        except Exception as error:
            if not (self.failed(error) and self.is_seeking):
                raise
            return []

    def _arrive(self, plain: Callable[[], Iterator[Any]]) -> Iterator[Any]:
        """Put the state back and continue from there; whoever is told may ask to go elsewhere at once."""
        rng: dict[str, Any] = {}
        while self._seek is not None:
            seek, self._seek = self._seek, None
            self.has_jumped, self._redraw = True, False
            self.epoch, self.batch = seek.epoch, seek.batch
            put_rng(seek.rng)
            seek.arrive()
            rng = read_rng()
        if self.batch == 0:
            return self._open(plain)
        source = self._open(plain)
        first = self._fetch(source)
        put_rng(rng)
        if first or self.is_seeking:
            return _chained(first, source)
        self.epoch, self.batch = self.epoch + 1, 0  # it stood at the end of an epoch
        return self._open(plain)

    def _open(self, plain: Callable[[], Iterator[Any]]) -> Iterator[Any]:
        """The rest of the current epoch."""
        if self.has_jumped:
            _set_epoch(self._loader, self.epoch)
        if self.batch:
            return iter(skip_first_batches(self._loader, self.batch))
        return iter(self._loader) if self._endless else plain()

    def _reopened(self, plain: Callable[[], Iterator[Any]]) -> Iterator[Any]:
        """The same place, fetched anew; random states stay as they are."""
        self._redraw, self.has_jumped = False, True
        rng = read_rng()
        source = self._open(plain)
        first = self._fetch(source)
        put_rng(rng)
        return _chained(first, source)


def _first(source: Iterator[Any]) -> list[Any]:
    """The first batch, in a list; empty if there is none."""
    for batch in source:
        return [batch]
    return []


def _chained(first: list[Any], rest: Iterator[Any]) -> Iterator[Any]:
    yield from first
    yield from rest


def _set_epoch(loader: Any, epoch: int) -> None:
    """Tell a loader, and the samplers below it, which epoch comes next; as the loop does at each of its own."""
    below = getattr(getattr(loader, "batch_sampler", None), "batch_sampler", None)
    for target in (loader, below):
        set_epoch = getattr(target, "set_epoch", None)
        if set_epoch is not None:
            set_epoch(epoch)


class _Followed:
    """Mixed into the class of a loader that a `Feed` follows."""

    feed: Feed

    def __iter__(self) -> Iterator[Any]:
        return self.feed.batches(super().__iter__)  # type: ignore[misc]
