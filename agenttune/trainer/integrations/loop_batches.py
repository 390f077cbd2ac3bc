"""The batches of a plain loop: epoch after epoch of a loader, from any place of it on.

With nothing asked, a loader hands out what it would hand out anyway. To go to a place, the random states in which its
epoch was opened are put back, its sampler is run up to the place without loading data, and then the random states of
that place are put back, so that what the dataset itself draws is drawn again alike.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, SequentialSampler

from agenttune.errors import NotSupported, UserError
from agenttune.trainer.adapter import not_ours
from agenttune.trainer.checkpoints import generators
from agenttune.trainer.checkpoints.generators import read_rng, restore_rng

MakeLoader = Callable[[Any], Any]


@dataclass
class DataPlace:
    """A place in the training data.

    Attributes:
        epoch: Epoch of the loader, from 0.
        batch: Batches of it that were handed out.
        opened: Random states in which the epoch was opened, the loader's own generators among them; none: it is to be
            opened yet, in those of this place.
        rng: Random states at this place.
    """

    epoch: int = 0
    batch: int = 0
    opened: dict[str, Any] = field(default_factory=dict)
    rng: dict[str, Any] = field(default_factory=dict)


class Batches:
    """Iterates over a loader for as long as training goes on.

    Attributes:
        given: What it was made with: the loader, or the function.
        loader: The loader that it draws from.

    Args:
        loader: A torch `DataLoader`, or any iterable (which can then not go back), or a function that makes a loader
            of a dataset.
        dataset: The dataset for such a function.
        goes_on: Whether another batch is wanted.
        note: Told of each batch.
        between: Called before a batch is drawn.
    """

    def __init__(
        self,
        loader: Any,
        dataset: object | None,
        goes_on: Callable[[], bool],
        note: Callable[[Any], None],
        between: Callable[[], None] = lambda: None,
    ) -> None:
        self.given = loader
        self._make: MakeLoader | None = None
        if callable(loader) and not hasattr(loader, "__iter__"):
            if dataset is None:
                raise UserError("batches() was given a function, which needs agenttune.session(dataset=...)")
            self._make, loader = loader, loader(dataset)
        self.loader: Any = loader
        self._goes_on, self._note, self._between = goes_on, note, between
        self._place = DataPlace()
        self._seek: DataPlace | None = None
        self._new_epoch = False
        self._replaced: tuple[Any, bool] | None = None
        """The loader before the newest one, and whether an epoch of it was to begin; until a batch is drawn."""
        self._drawn = 0
        self.failed: Callable[[Exception], bool] = not_ours
        """Told of an error of the loader between two steps; whether the data was put elsewhere because of it."""
        self.epoch_begins: Callable[[int], None] = lambda epoch: None
        """Told of each epoch of a call of `draw` after its first."""
        self.is_open = False
        """Whether somebody may still draw from what `draw` returned."""
        self.ended = False
        """Whether the data had an end, as that of a generator has, and it was reached."""
        self.is_exhausted = False
        """Whether more was asked for after that, and there was nothing."""
        self._gave: Any = None
        """The loader that the last batch came from."""

    @property
    def dataset(self) -> object | None:
        return getattr(self.loader, "dataset", None)

    def place(self, rng: dict[str, Any] | None = None) -> DataPlace:
        """The place in the data, with the random states of now; between two passes, the beginning of the later one.

        Args:
            rng: Those of the process, where they are read already.
        """
        if self._seek is not None:
            return self._seek
        if self._place.opened and not self.is_open:
            return DataPlace(self._place.epoch + 1, 0, {}, _read(self.loader, rng))
        return DataPlace(self._place.epoch, self._place.batch, self._place.opened, _read(self.loader, rng))

    @property
    def can_seek(self) -> bool:
        """Whether the loader can continue from another place: a torch `DataLoader` can."""
        return isinstance(self.loader, DataLoader)

    def seek(self, place: DataPlace) -> None:
        """Go on from there with the next batch."""
        self._seek, self._new_epoch = place, False

    def redraw(self) -> str:
        """Make the next batch anew if it may have been fetched ahead; the message for the ack."""
        if not getattr(self.loader, "num_workers", 0):
            return ""
        if not self.can_seek:
            return "batches that the loader has fetched ahead are still used"
        self._seek = self.place()
        return ""

    def replace(self, dataset: Any, keeps_place: bool = False) -> str:
        """Begin an epoch of another dataset with the next batch.

        Args:
            dataset: The other one.
            keeps_place: If it is the one of before, and no batch was drawn since: go on as if it had not been replaced.

        Raises:
            NotSupported: The loader cannot be made anew for it.
        """
        if keeps_place and self._replaced is not None and getattr(self._replaced[0], "dataset", None) is dataset:
            (self.loader, self._new_epoch), self._replaced = self._replaced, None
            return ""
        return self.replacement(dataset)()

    def replacement(self, dataset: Any) -> Callable[[], str]:
        """Make the loader of another dataset; what is returned begins an epoch of it with the next batch.

        Raises:
            NotSupported: The loader cannot be made anew for it.
        """
        loader = self._make(dataset) if self._make is not None else _for_dataset(self.loader, dataset)

        def change_over() -> str:
            self._replaced = self.loader, self._new_epoch
            self.loader, self._new_epoch = loader, self._seek is None
            return "the next batch begins an epoch of the new dataset"

        return change_over

    @property
    def epoch(self) -> int:
        """The loader's epoch, from 0."""
        return self._place.epoch

    def draw(self, epochs: int | None = None) -> Iterator[Any]:
        """Go on with the next epoch, for so many epochs; without a number, for as long as training goes on.

        After a return to a state of an earlier or later pass, it is that pass that is drawn to its end.
        """
        self.is_open = True
        return self._draw(math.inf if epochs is None else epochs)

    def _draw(self, epochs: float) -> Iterator[Any]:
        try:
            if not self._goes_on():
                return
            source: Iterator[Any] = iter(())
            if self._seek is None:
                source = self._next_epoch() if self._place.opened else self._open_epoch()
            first = (self._seek or self._place).epoch
            while self._goes_on():
                self._between()
                if not self._goes_on():
                    return
                if self._seek is not None:
                    source = self._arrive(self._seek)
                    if not first <= self.epoch < first + epochs:
                        first = self.epoch
                elif self._new_epoch:
                    source = self._next_epoch()
                try:
                    batch = next(source)
                except StopIteration:
                    if self._place.batch == 0 or source is self.loader:
                        if self._end():
                            return
                    elif self.epoch + 1 >= first + epochs and self.failed is not_ours:
                        self._new_epoch = True  # a trial goes on, so that the loop's code between passes is not in it
                        return
                    else:
                        source = self._next_epoch()
                    continue
                except Exception as error:
                    # In the midst of a step, the loop's own count of micro-batches would not go back.
                    if self._drawn or not self.failed(error):
                        raise
                    continue
                if self._place.batch == 0:
                    self.ended = False
                    if self.epoch > first:
                        self.epoch_begins(self.epoch)
                self._replaced = None
                self._gave = self.loader
                self._place.batch += 1
                self._drawn += 1
                self._note(batch)
                yield batch
        finally:
            self.is_open = False

    def _end(self) -> bool:
        """The loader has nothing more to give; whether that is the end, and not that of a trial alone."""
        if self._gave is not self.loader:
            raise UserError("the loader has no batches")
        if not self._drawn and self.failed(UserError("the data ended")):
            return False
        self.is_exhausted, self.ended = self.ended, True
        return True

    def begin_step(self) -> None:
        """The batches that follow belong to another step."""
        self._drawn = 0

    def _next_epoch(self) -> Iterator[Any]:
        self._new_epoch = False
        self._place = DataPlace(self._place.epoch + 1)
        return self._open_epoch()

    def _open_epoch(self) -> Iterator[Any]:
        _set_epoch(self.loader, self._place.epoch)
        self._place.opened = _read(self.loader)
        return iter(self.loader)

    def _arrive(self, place: DataPlace) -> Iterator[Any]:
        self._seek = None
        if not place.opened:
            _put(self.loader, place.rng)
            self._place = DataPlace(place.epoch)
            return self._open_epoch()
        self._place = DataPlace(place.epoch, place.batch, place.opened)
        _put(self.loader, place.opened)
        _set_epoch(self.loader, place.epoch)
        source = iter(self.loader) if place.batch == 0 else _from_batch(self.loader, place.batch)
        _put(self.loader, place.rng)
        return source


def _from_batch(loader: DataLoader[Any], count: int) -> Iterator[Any]:
    """The batches of an epoch after the first `count`."""
    if isinstance(loader.dataset, IterableDataset):
        source = iter(loader)
        for _ in range(count):
            next(source, None)
        return source
    # As torch's own iterator does before it asks its sampler; its place in the random stream is part of the order.
    torch.empty((), dtype=torch.int64).random_(generator=loader.generator)
    by_batch = loader.batch_sampler is not None
    sampler: Any = loader.batch_sampler if by_batch else loader.sampler
    indices = iter(sampler)
    for _ in range(count):
        next(indices, None)
    how: dict[str, Any] = (
        {"batch_sampler": _Rest(indices)} if by_batch else {"sampler": _Rest(indices), "batch_size": None}
    )
    return iter(DataLoader(loader.dataset, **how, **_settings(loader)))


class _Rest:
    """What a sampler has left; it may have no end."""

    def __init__(self, indices: Iterator[Any]) -> None:
        self._indices = indices

    def __iter__(self) -> Iterator[Any]:
        return self._indices


def _for_dataset(loader: Any, dataset: Any) -> DataLoader[Any]:
    """The same loader over another dataset."""
    if not isinstance(loader, DataLoader):
        raise NotSupported(f"batches() was given a {type(loader).__name__}; give it a function dataset -> loader")
    how: dict[str, Any] = {"batch_size": loader.batch_size, "drop_last": loader.drop_last}
    if not isinstance(dataset, IterableDataset):
        batch_sampler = type(loader.batch_sampler).__name__
        if type(loader.sampler) not in (RandomSampler, SequentialSampler) or batch_sampler not in (
            "BatchSampler",
            "NoneType",
        ):
            raise NotSupported(
                f"the loader draws with a {type(loader.sampler).__name__} made for the old dataset; give batches() a "
                "function dataset -> loader"
            )
        how["shuffle"] = type(loader.sampler) is RandomSampler
    return DataLoader(dataset, **how, **_settings(loader))


def _settings(loader: DataLoader[Any]) -> dict[str, Any]:
    """What a loader was made with, but for dataset and sampler."""
    names = ("num_workers", "collate_fn", "pin_memory", "timeout", "worker_init_fn", "generator", "prefetch_factor")
    return {name: getattr(loader, name) for name in (*names, "multiprocessing_context")}


def _generators(loader: Any) -> dict[str, Any]:
    """Random generators that the loader, its samplers, dataset or collator hold, each once."""
    names = ("generator", "sampler", "batch_sampler", "dataset", "collate_fn")
    return generators.find({name: getattr(loader, name, None) for name in names})


def _read(loader: Any, rng: dict[str, Any] | None = None) -> dict[str, Any]:
    return (rng or read_rng()) | {"generators": generators.read(_generators(loader))}


def _put(loader: Any, states: dict[str, Any]) -> None:
    restore_rng(states)
    saved = states.get("generators", {})
    if isinstance(saved, list):  # written by an older version: those of the loader and its samplers, in order
        own = [held for held in _generators(loader).values() if isinstance(held, torch.Generator)]
        for generator, state in zip(own, saved, strict=False):
            generator.set_state(state)
    else:
        generators.restore(_generators(loader), saved)


def _set_epoch(loader: Any, epoch: int) -> None:
    """As a loop does by hand for samplers and datasets that shuffle by the epoch's number."""
    for target in (getattr(loader, name, None) for name in ("dataset", "sampler", "batch_sampler")):
        with contextlib.suppress(AttributeError):
            target.set_epoch(epoch)  # type: ignore[union-attr]
