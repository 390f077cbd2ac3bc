"""Interactive datasets around an object: a transform with runtime parameters, applied as samples are drawn.

`datasets.Dataset` has transforms of its own, but transformers' Trainer takes the columns away from those that a model
does not know, before a transform can use them. Around the object, the Trainer removes them afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch.utils.data import Dataset, IterableDataset

from agenttune.trainer.datasets.parameters import ATTRIBUTE, DatasetParameters

Transform = Callable[..., Any]


class _Wrapped:
    """What both kinds share: the columns and the epoch are the object's own, runtime parameters are attributes."""

    def __init__(self, dataset: Any, transform: Transform, parameters: DatasetParameters) -> None:
        self.dataset = dataset
        self.transform = transform
        self.__dict__[ATTRIBUTE] = parameters

    def __getattr__(self, name: str) -> Any:
        parameters = self.__dict__.get(ATTRIBUTE)
        if parameters is not None and name in parameters.names:
            return parameters.shared.current()[name]
        if name in ("column_names", "features", "num_rows", "set_epoch") and "dataset" in self.__dict__:
            return getattr(self.dataset, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        parameters = self.__dict__.get(ATTRIBUTE)
        if parameters is not None and name in parameters.names:
            parameters.write({name: value})
        else:
            object.__setattr__(self, name, value)

    def _transformed(self, sample: Any) -> Any:
        parameters: DatasetParameters = self.__dict__[ATTRIBUTE]
        return self.transform(sample, **parameters.shared.current())


class WrappedItems(_Wrapped, Dataset[Any]):
    """A map-style dataset with a transform. An index gives a sample, a column's name the column as it is stored."""

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, str):
            return self.dataset[index]
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self._transformed(self.dataset[index])

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """A whole batch; `datasets.Dataset` reads one several times faster than its samples one by one."""
        fetch = getattr(self.dataset, "__getitems__", None)
        samples = fetch(list(indices)) if callable(fetch) else [self.dataset[i] for i in indices]
        return [self._transformed(sample) for sample in samples]


class WrappedStream(_Wrapped, IterableDataset[Any]):
    """An iterable dataset with a transform; it shares itself out among workers as the object does."""

    def __iter__(self) -> Iterator[Any]:
        for sample in self.dataset:
            yield self._transformed(sample)
