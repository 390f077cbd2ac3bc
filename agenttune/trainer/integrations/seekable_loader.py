"""The place in the training data, and how to move it, for a loop that draws batches from a data loader.

The loader's class is extended in place, so that it stays what it was for whoever else looks at it. With nothing asked
it hands out its own batches. Asked to seek, it puts the training state back between two steps and goes on from there:
in the middle of an epoch the random states come last, after the first batch was fetched, at the start of one they
come first; so they are in the original run (measured: bit-identical losses with shuffling and dropout).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from accelerate import skip_first_batches
from torch.utils.data import DataLoader, IterableDataset

from agenttune.errors import NotSupported
from agenttune.trainer.adapter import not_ours
from agenttune.trainer.checkpoints import generators
from agenttune.trainer.checkpoints.generators import read_rng, restore_rng, same_rng

KEPT_DRAWS = 4
"""Batches whose random states are kept: the one fetched ahead, and some to spare."""
CALM_FETCHES = 8
"""After so many batches that changed no random state of the process nobody looks any more: 20 us each (guess)."""
_set_class = object.__dict__["__class__"].__set__
"""Accelerate's loaders say that they are of another class, by a property that plain assignment does not get past."""


@dataclass
class Seek:
    """A place to continue from.

    Attributes:
        epoch: Epoch of the data, from 0.
        batch: Batches of that epoch that are done.
        rng: Random states to restore.
        restore: Restores everything else; called between two steps, before a batch is drawn.
        drawn: How its epoch was opened and drawn from, see `DataFeed.draws`.
    """

    epoch: int
    batch: int
    rng: dict[str, Any]
    restore: Callable[[], None]
    drawn: dict[str, Any] = field(default_factory=dict)


class DataFeed:
    """Hands out the batches of a loader, knows their place in the data, and can seek to another.

    Attributes:
        epoch: Epoch of the data that is being trained on, from 0.
        batch: Batches of it that were handed out.
        handed: Batches handed out in the loop's epoch.
        has_restored: Whether the loop's own count of epochs no longer is the data's.
        sought: The place to continue from, if that was asked for.
        is_open: Whether the loop draws from here (the first epoch of a resumed run comes from another loader).
    """

    def __init__(self) -> None:
        self.epoch = 0
        self.batch = 0
        self.handed = 0
        self.has_restored = False
        self.sought: Seek | None = None
        self._loader: Any = None
        self._endless = False
        self._source: Iterator[Any] | None = None
        self._redraw = False
        self._keeps_epoch = False
        self._is_fresh = True
        self.is_open = True
        self._opened: dict[str, Any] | None = None
        self._at: dict[int, dict[str, Any]] = {}
        self._replayed: dict[int, dict[str, Any]] = {}
        self._calm = 0
        self._is_random = False
        self._is_fresh = True
        self._ordering: dict[str, Any] = {}
        self._making: dict[str, Any] = {}
        self.is_over: Callable[[], bool] = lambda: False
        """Whether training has ended, asked after a restore."""
        self.failed: Callable[[Exception], bool] = not_ours
        """Told of an error of the loader; returns whether the data continues elsewhere because of it, by `seek`."""

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
        self._look_for_generators()
        self._follow_draws()

    def _follow_draws(self) -> None:
        """Follow the batch sampler, to note random states before each batch is made."""
        sampler = getattr(self._loader, "batch_sampler", None)
        self._calm, self._is_random = (0, False) if sampler is not None else (CALM_FETCHES, False)
        if sampler is None or getattr(sampler, "tells", None) is self:
            return
        with contextlib.suppress(TypeError):  # a class of another make; `lost` tells what that costs
            sampler.__class__ = _told_of_draws(type(sampler), self)

    def _look_for_generators(self) -> None:
        """Those that say which items come, when an epoch is opened, and those that make the items."""
        loader = self._loader
        own = {name: getattr(loader, name, None) for name in ("generator", "sampler", "batch_sampler")}
        made = {"dataset": getattr(loader, "dataset", None), "collator": getattr(loader, "collate_fn", None)}
        is_stream = isinstance(made["dataset"], IterableDataset)
        making = generators.find(made)
        ordering = generators.find({"loader": own, **(made if is_stream else {})})
        known = {id(generator) for generator in making.values()}
        self._ordering = {n: g for n, g in ordering.items() if is_stream or id(g) not in known}
        self._making = {} if is_stream else making

    def draws(self) -> dict[str, Any]:
        """Random states that the data at this place depends on, beside those of the process.

        `opened`: those of the process and of the sampler's own generators when the epoch was opened; `ordering` and
        `making`: the sampler's, and the dataset's and collator's own, as they are; `ahead`: those of before the next
        batch was fetched, which a loader does one batch early.
        """
        drawn: dict[str, Any] = {
            "ordering": generators.read(self._ordering),
            "making": generators.read(self._making),
        }
        if self._opened is not None:
            drawn["opened"] = self._opened
        if self.batch in self._at:
            drawn["ahead"] = self._at[self.batch]
        return drawn

    def lost(self, drawn: dict[str, Any], batch: int) -> list[str]:
        """Names of generators whose states a place does not tell, so that they draw on from where they are."""
        own = drawn.get("ordering", {}) if not batch else drawn.get("opened", {}).get("own", {})
        making = drawn.get("ahead", {}).get("making", {}) if batch else drawn.get("making", {})
        return [n for n in self._ordering if n not in own] + [n for n in self._making if n not in making]

    @property
    def may_reorder(self) -> bool:
        """Whether the order of an epoch rests on random states of the process, and not on a seed and its number."""
        sampler = getattr(self._loader, "sampler", None)
        return type(sampler).__name__ not in ("SeedableRandomSampler", "SequentialSampler", "_InfiniteConstantSampler")

    def drawing(self, index: int) -> None:
        """The loader draws the batch of this index in its epoch, before it is made."""
        states = self._replayed.pop(index, None)
        if states is not None:
            restore_rng(states["rng"])
            generators.restore(self._making, states["making"])
        if self._is_noting:
            self._at[index] = {"rng": read_rng(), "making": generators.read(self._making)}
            self._at.pop(index - KEPT_DRAWS, None)

    @property
    def _is_noting(self) -> bool:
        """Whether making a batch may change random states; the workers' own are out of reach."""
        return not self.workers and (bool(self._making) or self._is_random or self._calm < CALM_FETCHES)

    def refusal(self) -> str:
        """Why the place in the data cannot be changed; empty if it can."""
        return "" if self._loader is not None else "the training data does not come from a torch DataLoader"

    @property
    def workers(self) -> int:
        """Processes that fetch data ahead."""
        return int(getattr(self._loader, "num_workers", 0))

    def begin(self, epoch: int, batch: int) -> None:
        """Training begins here; a resumed run does not begin at the start."""
        self.epoch, self.batch = epoch, batch
        self.has_restored = self._redraw = False
        self.sought = self._source = None
        self._opened = None
        self._keeps_epoch = True
        self.is_open = batch == 0

    def start_epoch(self) -> None:
        """The loop starts an epoch of its own."""
        self.handed = 0
        if self._keeps_epoch:
            self._keeps_epoch = False
            return
        self.is_open = True
        if self.sought is None and not self._endless:
            self.epoch, self.batch = self.epoch + 1, 0

    @property
    def must_end_epoch(self) -> bool:
        """Whether the loop has to end its epoch before the data can be put elsewhere."""
        return self.handed > 0 or not self.is_open

    # -- what is asked ----------------------------------------------------------------------------------------

    def seek(self, seek: Seek) -> None:
        """Continue elsewhere when the loop next draws a batch; if `must_end_epoch`, it has to end its epoch first.

        Raises:
            NotSupported: The data cannot be put elsewhere.
        """
        if self.refusal():
            raise NotSupported(f"cannot go back: {self.refusal()}")
        self.sought = seek

    @property
    def is_seeking(self) -> bool:
        return self.sought is not None

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
        self._look_for_generators()
        self.has_restored = self._redraw = True
        if not keeps_place:
            self.epoch, self.batch = self.epoch + 1, 0

    # -- handing out ------------------------------------------------------------------------------------------

    def batches(self, plain: Callable[[], Iterator[Any]]) -> Iterator[Any]:
        """The batches of one epoch of the loop.

        Args:
            plain: Opens the loader that the loop asks, as it is.
        """
        if self.sought is not None:
            self._source = self._restore(plain)
        elif self._source is None or not self._endless:
            self._source = self._open_noted(plain)
        while not self.is_over():
            if self.sought is not None and not self.handed:
                self._source = self._restore(plain)
                continue
            if self._redraw:
                self._source = self._reopened(plain)
            batch = self._fetch(self._source)
            if not batch and self._endless and not self.is_seeking:
                self.epoch, self.batch = self.epoch + 1, 0
                self._source = self._open_noted(plain)
                batch = self._fetch(self._source)
            if batch:
                self.batch += 1
                self.handed += 1
                yield batch[0]
            elif self.handed or not self.is_seeking:
                return

    def _fetch(self, source: Iterator[Any]) -> list[Any]:
        """The next batch, in a list; empty if there is none, or if it failed and the data is put elsewhere."""
        was = read_rng() if self._calm < CALM_FETCHES and not self._is_fresh and not self.workers else None
        self._is_fresh = False
        try:
            found = _first(source)
        except Exception as error:
            if not (self.failed(error) and self.is_seeking):
                raise
            return []
        if was is not None:
            is_same = same_rng(was, read_rng())
            self._calm, self._is_random = self._calm + is_same, self._is_random or not is_same
        return found

    def _restore(self, plain: Callable[[], Iterator[Any]]) -> Iterator[Any]:
        """Restore the state and continue from there; the session may ask for another place at once."""
        rng: dict[str, Any] = {}
        drawn: dict[str, Any] = {}
        while self.sought is not None:
            seek, self.sought = self.sought, None
            self.has_restored, self._redraw = True, False
            self.epoch, self.batch = seek.epoch, seek.batch
            restore_rng(seek.rng)
            seek.restore()
            rng = read_rng()
            drawn = seek.drawn
        generators.restore(self._making, drawn.get("making", {}))
        self._at, self._replayed = {}, {}
        if self.batch == 0:
            generators.restore(self._ordering, drawn.get("ordering", {}))
            return self._open_noted(plain)
        self._opened, self._is_fresh = drawn.get("opened"), True
        if self._opened is not None:
            restore_rng(self._opened["rng"])
            generators.restore(self._ordering, self._opened["own"])
        if "ahead" in drawn:
            # The first fetch makes two batches: the one that had been fetched ahead, and the one after it.
            now = {"rng": rng, "making": drawn.get("making", {})}
            self._replayed = {self.batch: drawn["ahead"], self.batch + 1: now}
        source = self._open(plain)
        first = self._fetch(source)
        if "ahead" not in drawn or self._replayed:
            restore_rng(rng)
        self._replayed = {}
        if first or self.is_seeking:
            return _chained(first, source)
        self.epoch, self.batch = self.epoch + 1, 0  # it stood at the end of an epoch
        return self._open_noted(plain)

    def _open_noted(self, plain: Callable[[], Iterator[Any]]) -> Iterator[Any]:
        """Open an epoch, and remember the random states that this is done in: a sampler may draw from any of them."""
        self._opened = {"rng": read_rng(), "own": generators.read(self._ordering)} if not self.batch else None
        self._is_fresh = True
        self._at = {}
        return self._open(plain)

    def _open(self, plain: Callable[[], Iterator[Any]]) -> Iterator[Any]:
        """The rest of the current epoch."""
        if self.has_restored:
            _set_epoch(self._loader, self.epoch)
        if self.batch:
            return iter(skip_first_batches(self._loader, self.batch))
        return iter(self._loader) if self._endless else plain()

    def _reopened(self, plain: Callable[[], Iterator[Any]]) -> Iterator[Any]:
        """The same place, fetched anew; random states stay as they are."""
        self._redraw, self.has_restored = False, True
        rng = read_rng()
        self._is_fresh = True
        source = self._open(plain)
        first = self._fetch(source)
        restore_rng(rng)
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


def _told_of_draws(kind: type[Any], feed: DataFeed) -> type[Any]:
    """A batch sampler's class that tells the feed of each batch before it is made.

    No class is mixed in: an object of torch's own class could not become one of such a class.
    """

    def draw(self: Any) -> Iterator[Any]:
        for index, items in enumerate(kind.__iter__(self)):
            feed.drawing(index)
            yield items

    return type(kind.__name__, (kind,), {"__iter__": draw, "tells": feed})


class _Followed:
    """Mixed into the class of a loader that a `DataFeed` follows."""

    feed: DataFeed

    def __iter__(self) -> Iterator[Any]:
        return self.feed.batches(super().__iter__)  # type: ignore[misc]
