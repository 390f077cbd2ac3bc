"""Samples that know which source of a mixture they come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class SourcedDict(dict[Any, Any]):
    """A sample that knows its source."""

    agenttune_source: int


class SourcedTuple(tuple[Any, ...]):
    """A sample that knows its source."""

    agenttune_source: int


def sourced(sample: Any, source: int) -> Any:
    """The sample, marked with its source; one that is neither a mapping nor a tuple stays as it is."""
    marked: SourcedDict | SourcedTuple
    if isinstance(sample, Mapping):
        marked = SourcedDict(sample)
    elif type(sample) is tuple:
        marked = SourcedTuple(sample)
    else:
        return sample
    marked.agenttune_source = source
    return marked
