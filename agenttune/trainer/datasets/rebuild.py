"""Building a dataset anew with other arguments, the old one untouched."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agenttune.errors import UserError
from agenttune.trainer.checkpoints.generators import read_rng, restore_rng
from agenttune.trainer.datasets.parameters import ATTRIBUTE, Arguments, DatasetParameters, parameters_of
from agenttune.trainer.datasets.values import fit


@dataclass
class Rebuilt:
    """A dataset that was built anew.

    Attributes:
        dataset: The new dataset.
        notes: What else is to be said of it.
    """

    dataset: Any
    notes: list[str] = field(default_factory=list)


def rebuilt(dataset: object, values: Mapping[str, Any]) -> Rebuilt:
    """A new dataset with some arguments changed; runtime values are kept as far as they fit.

    The old dataset and the random states stay as they are, whatever comes of it.

    Args:
        dataset: An interactive dataset.
        values: Arguments of its constructor, checked.

    Raises:
        UserError: It cannot be built so; with the constructor's own words.
    """
    parameters = parameters_of(dataset)
    if parameters is None or parameters.arguments is None:
        raise UserError("this dataset does not know how it was built, it cannot be built anew")
    before = parameters.runtime()
    kept = {name: before[name] for name in parameters.arguments.named() if name in before}
    arguments = parameters.arguments.changed({**kept, **values})
    random_states = read_rng()
    notes: list[str] = []
    try:
        copied = _copied(dataset, notes) if callable(getattr(dataset, "reload_dataset", None)) else None
        new = _reloaded(copied, arguments) if copied is not None else arguments.make()
    except Exception as error:
        raise UserError(
            f"the dataset could not be built anew, the old one stays in use: {type(error).__name__}: {error}"
        ) from error
    finally:
        restore_rng(random_states)
    return Rebuilt(new, [*notes, *_keep(parameters, new)])


def _copied(dataset: Any, notes: list[str]) -> Any:
    """A copy for the class' own `reload_dataset`, which may stop half way; None if it cannot be copied."""
    try:
        return copy.deepcopy(dataset)
    except Exception as error:  # the constructor does as well
        notes.append(f"built by the constructor, not by reload_dataset: it cannot be copied ({error})")
        return None


def _reloaded(new: Any, arguments: Arguments) -> Any:
    new.reload_dataset(**arguments.named())
    parameters = new.__dict__[ATTRIBUTE]
    parameters.arguments = arguments
    return new


def _keep(old: DatasetParameters, new: Any) -> list[str]:
    """Put the old runtime values in force in the new dataset; what no longer fits keeps the new dataset's value."""
    parameters = parameters_of(new)
    assert parameters is not None
    before, fresh = old.shared.current(), parameters.shared.current()
    kept, notes = {name: before[name] for name in old.private}, []
    for name, value in old.runtime().items():
        try:
            own = getattr(new, f"fit_{name}", None)
            kept[name] = own(value) if callable(own) else fit(name, value, fresh[name], optional=True)
        except UserError as error:
            notes.append(f"runtime parameter {name} is now {fresh[name]!r}, the old value does not fit: {error}")
    parameters.write(kept)
    return notes
