"""A dataset's parameters as a record of the log, and as part of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agenttune.errors import UserError
from agenttune.protocol.events import DatasetRead
from agenttune.trainer.datasets.parameters import DatasetParameters, parameters_of
from agenttune.trainer.datasets.rebuild import rebuilt
from agenttune.trainer.datasets.values import decode, encode


def read_dataset(dataset: object) -> DatasetRead:
    """The event that describes a dataset as it is now."""
    parameters = parameters_of(dataset)
    return DatasetRead(
        type=_type_name(dataset),
        size=_size(dataset),
        interactive=parameters is not None,
        initialization=parameters.initialization() if parameters is not None else {},
        runtime=parameters.reread() if parameters is not None else {},
    )


def _type_name(dataset: object) -> str:
    inner = getattr(dataset, "dataset", None)
    is_around = type(dataset).__name__ in ("WrappedItems", "WrappedStream")
    return type(inner if is_around else dataset).__name__


def _size(dataset: object) -> int | None:
    try:
        return len(dataset)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):
        return None


def capture_dataset(dataset: object) -> dict[str, Any]:
    """What a checkpoint needs, so that the samples after a return are those that followed it.

    As JSON: runtime values, a mixture's epoch and earlier weights, initialization parameters. Empty for a dataset
    that is not interactive.
    """
    parameters = parameters_of(dataset)
    if parameters is None:
        return {}
    current = parameters.shared.current()
    return {
        "runtime": {name: encode(current[name]) for name in parameters.names},
        "private": {name: encode(current[name]) for name in parameters.private},
        "initialization": {name: encode(value) for name, value in parameters.initialization().items()},
    }


def restore_dataset(dataset: object, captured: Mapping[str, Any]) -> None:
    """Put runtime values back as they were captured.

    Raises:
        UserError: It was captured of another dataset, or built with other arguments (see `dataset_as_captured`);
            nothing has changed.
    """
    parameters = _matching(dataset, captured)
    if parameters is None:
        return
    differing = _differing(parameters, captured)
    if differing:
        raise UserError(
            f"the dataset was built with other arguments than the one of the checkpoint: {', '.join(differing)}"
        )
    _put(parameters, captured)


def dataset_as_captured(dataset: object, captured: Mapping[str, Any]) -> object:
    """The dataset as it was captured: the object itself, or a new one if it has been rebuilt since.

    A new one leaves the old as it is; the loop has yet to be told to draw from it.

    Raises:
        UserError: It was captured of another dataset, or can no longer be built; nothing has changed.
    """
    parameters = _matching(dataset, captured)
    if parameters is None:
        return dataset
    differing = _differing(parameters, captured)
    if differing:
        dataset = rebuilt(dataset, {name: decode(captured["initialization"][name]) for name in differing}).dataset
        parameters = parameters_of(dataset)
        assert parameters is not None
    _put(parameters, captured)
    return dataset


def is_rebuilt_since(dataset: object, captured: Mapping[str, Any]) -> bool:
    """Whether the dataset was built with other arguments than the one that was captured.

    Raises:
        UserError: It was captured of another dataset.
    """
    parameters = _matching(dataset, captured)
    return parameters is not None and bool(_differing(parameters, captured))


def _put(parameters: DatasetParameters, captured: Mapping[str, Any]) -> None:
    values = {**captured["runtime"], **captured["private"]}
    parameters.write({name: decode(value) for name, value in values.items()})


def _matching(dataset: object, captured: Mapping[str, Any]) -> DatasetParameters | None:
    """The dataset's parameters, if they are those captured; None if there are none on either side."""
    parameters = parameters_of(dataset)
    if parameters is None and not captured:
        return None
    names = set(parameters.names) if parameters is not None else set()
    if parameters is None or not captured or names != set(captured["runtime"]):
        there = ", ".join(sorted(captured["runtime"])) if captured else "none"
        raise UserError(
            f"the checkpoint is of a dataset with other runtime parameters: {there}; "
            f"this one has: {', '.join(sorted(names)) or 'none'}"
        )
    return parameters


def _differing(parameters: DatasetParameters, captured: Mapping[str, Any]) -> list[str]:
    """Initialization parameters that have changed since the capture."""
    now, then = parameters.initialization(), captured["initialization"]
    return [name for name in then if name in now and encode(now[name]) != then[name]]
