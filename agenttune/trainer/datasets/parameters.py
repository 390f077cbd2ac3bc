"""The parameters of one dataset: those read at every sample, and those it was built with."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from agenttune.errors import UserError
from agenttune.trainer.datasets.shared import SharedValues
from agenttune.trainer.datasets.values import fit, is_plain

ATTRIBUTE = "_agenttune_parameters"
"""Where a dataset keeps its parameters."""
Check = Callable[[Any], object]
"""Judges a value: False, a text or a ValueError refuse it; the text is the reason."""


class Arguments:
    """How a dataset was built, and how to build it with other arguments.

    Args:
        build: The class.
        call: Arguments by the names of its constructor.
    """

    def __init__(self, build: type[Any], call: inspect.BoundArguments) -> None:
        self.build = build
        self.call = call
        self._rest = next(
            (p.name for p in call.signature.parameters.values() if p.kind is inspect.Parameter.VAR_KEYWORD), None
        )
        self._keep_originals()

    @classmethod
    def of(cls, build: type[Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        """Name the arguments of a constructor's call."""
        signature = inspect.signature(build.__init__)
        without_self = signature.replace(parameters=list(signature.parameters.values())[1:])
        call = without_self.bind(*args, **kwargs)
        call.apply_defaults()
        return cls(build, call)

    def _keep_originals(self) -> None:
        """A constructor may write into a list that it was given."""
        for name, value in self.call.arguments.items():
            if is_plain(value):
                self.call.arguments[name] = copy.deepcopy(value)

    def named(self) -> dict[str, Any]:
        """All arguments that have a name."""
        kinds = {p.name: p.kind for p in self.call.signature.parameters.values()}
        named = {
            name: value
            for name, value in self.call.arguments.items()
            if kinds[name] not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        }
        return named | (self.call.arguments[self._rest] if self._rest is not None else {})

    def is_optional(self, name: str) -> bool:
        """Whether the constructor takes None for it by default."""
        parameter = self.call.signature.parameters.get(name)
        return parameter is not None and parameter.default is None

    def changed(self, values: Mapping[str, Any]) -> Arguments:
        """The same call with other values."""
        call = inspect.BoundArguments(self.call.signature, self.call.arguments.copy())
        for name, value in values.items():
            if name in call.arguments and name != self._rest:
                call.arguments[name] = value
            elif self._rest is not None:
                call.arguments[self._rest] = {**call.arguments[self._rest], name: value}
        return Arguments(self.build, call)

    def make(self) -> Any:
        """Build the dataset."""
        return self.build(*copy.copy(self.call.args), **self.call.kwargs)


@dataclass
class DatasetParameters:
    """What can be changed about a dataset.

    Attributes:
        shared: Runtime values, and under names in `private` what else its workers must know.
        names: Runtime parameters.
        private: Names of values that are part of the dataset's state but no parameters.
        fixed: Constructor arguments that no command can change.
        optional: Runtime parameters that may be None.
        checks: The user's own checks of runtime values.
        arguments: How it was built; None for a wrapped object and in a worker's copy.
    """

    shared: SharedValues
    names: tuple[str, ...]
    private: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    optional: frozenset[str] = frozenset()
    checks: Mapping[str, Check] = field(default_factory=dict)
    arguments: Arguments | None = None

    def runtime(self) -> dict[str, Any]:
        """Runtime values in force."""
        current = self.shared.current()
        return {name: current[name] for name in self.names}

    def reread(self) -> dict[str, Any]:
        """Runtime values, decoded anew from where the workers read them."""
        self.shared.reread()
        return self.runtime()

    def initialization(self) -> dict[str, Any]:
        """Constructor arguments that a command can change: plain values that are no runtime parameters."""
        if self.arguments is None:
            return {}
        return {
            name: value
            for name, value in self.arguments.named().items()
            if name not in (*self.names, *self.fixed) and is_plain(value)
        }

    def write(self, values: Mapping[str, Any]) -> None:
        """Put values in force, all at once and unchecked but for what they are made of."""
        for name, value in values.items():
            if not is_plain(value):
                raise UserError(
                    f"runtime parameter {name!r} would be a {type(value).__name__}; it can be a number, a text, "
                    "true or false, None, or a list, tuple or dict of these",
                    field=name,
                )
        self.shared.write({**self.shared.current(), **values})

    # -- checking ---------------------------------------------------------------------------------------------

    def fit_runtime(self, dataset: object, asked: Mapping[str, Any]) -> dict[str, Any]:
        """What would be put in force for what was asked.

        Raises:
            UserError: An unknown name, another type, or a value that the dataset's own check refuses.
        """
        known = self.runtime()
        self._refuse_unknown(asked, known, "runtime parameter", self.initialization(), "update_dataset")
        return {name: self._fit_one(dataset, name, value, known[name]) for name, value in asked.items()}

    def _fit_one(self, dataset: object, name: str, value: Any, current: Any) -> Any:
        judges = [judge for judge in (getattr(dataset, f"validate_{name}", None), self.checks.get(name)) if judge]
        own = getattr(dataset, f"fit_{name}", None)
        if callable(own):
            fitted = own(value)
        else:
            fitted = fit(name, value, current, optional=name in self.optional, any_length=bool(judges))
        for judge in judges:
            _judge(name, fitted, judge)
        return fitted

    def fit_initialization(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Constructor arguments for what was asked.

        Raises:
            UserError: An unknown name or another type.
        """
        known = self.initialization()
        runtime = self.runtime()
        other = "update_dataset_runtime_hyperparameters"
        self._refuse_unknown(asked, known, "initialization parameter", runtime, other)
        arguments = self.arguments
        return {
            name: fit(
                name,
                value,
                known[name],
                optional=arguments is not None and arguments.is_optional(name),
                any_length=True,
            )
            for name, value in asked.items()
        }

    def _refuse_unknown(
        self, asked: Mapping[str, Any], known: Mapping[str, Any], what: str, others: Mapping[str, Any], command: str
    ) -> None:
        for name in asked:
            if name in known:
                continue
            names = ", ".join(known) or "none"
            hint = f"; {name!r} is changed by {command}" if name in others else ""
            raise UserError(
                f"{name!r} is no {what} of this dataset; it has: {names}{hint}", field=name, allowed=list(known)
            )

    # -- copies -----------------------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        """A worker reads runtime values and nothing else; what the dataset was built with may not even pickle."""
        return {
            "shared": self.shared,
            "names": self.names,
            "private": self.private,
            "fixed": self.fixed,
            "optional": self.optional,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, checks={}, arguments=None)

    def __deepcopy__(self, memo: dict[int, Any]) -> DatasetParameters:
        copied = copy.copy(self)
        copied.__dict__.update(self.__dict__)
        copied.shared = copy.deepcopy(self.shared, memo)
        return copied


def _judge(name: str, value: Any, judge: Check) -> None:
    try:
        verdict = judge(value)
    except ValueError as error:
        raise UserError(f"{name} {value!r:.80} is refused by the dataset: {error}", field=name) from error
    if isinstance(verdict, str) and verdict:
        raise UserError(f"{name} {value!r:.80} is refused by the dataset: {verdict}", field=name)
    if verdict is False:
        raise UserError(f"{name} {value!r:.80} is refused by the dataset's own check", field=name)


def parameters_of(dataset: object) -> DatasetParameters | None:
    """The parameters of a dataset; None if it is not interactive."""
    found = getattr(dataset, "__dict__", {}).get(ATTRIBUTE)
    return found if isinstance(found, DatasetParameters) else None
