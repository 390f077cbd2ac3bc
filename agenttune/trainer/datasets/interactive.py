"""`make_interactive_dataset`: a dataset whose parameters can be changed while a run draws from it."""

from __future__ import annotations

import copyreg
import inspect
import sys
import uuid
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType, new_class
from typing import Any
from weakref import WeakValueDictionary

from torch.utils.data import IterableDataset

from agenttune.errors import UserError
from agenttune.trainer.datasets.parameters import ATTRIBUTE, Arguments, Check, DatasetParameters, parameters_of
from agenttune.trainer.datasets.shared import SharedValues
from agenttune.trainer.datasets.values import is_plain
from agenttune.trainer.datasets.wrapped import WrappedItems, WrappedStream

Runtime = Iterable[str] | Mapping[str, Any]
_DRAFT = "_agenttune_draft"
"""Where runtime values lie while the constructor still runs."""
_MISSING: Any = object()


class RuntimeAttribute:
    """An attribute that lies in shared memory: read where samples are made, set in the training process."""

    def __init__(self, name: str, default: Any = _MISSING) -> None:
        self.name = name
        self.default = default

    def __get__(self, dataset: Any, owner: type[Any] | None = None) -> Any:
        if dataset is None:
            return self.default if self.default is not _MISSING else self
        state = dataset.__dict__
        parameters = state.get(ATTRIBUTE)
        if parameters is not None:
            return parameters.shared.current()[self.name]
        value = state.get(_DRAFT, {}).get(self.name, self.default)
        if value is _MISSING:
            raise AttributeError(f"{type(dataset).__name__!r} object has no attribute {self.name!r} yet")
        return value

    def __set__(self, dataset: Any, value: Any) -> None:
        parameters = dataset.__dict__.get(ATTRIBUTE)
        if parameters is not None:
            parameters.write({self.name: value})
        else:
            dataset.__dict__.setdefault(_DRAFT, {})[self.name] = value


class InteractiveType(type):
    """The type of interactive dataset classes: it notes how a dataset was built, and shares its runtime values."""

    agenttune_checks: Mapping[str, Check] = MappingProxyType({})
    agenttune_optional: frozenset[str] = frozenset()
    agenttune_private: tuple[str, ...] = ()
    """Values that workers must know and no command can set."""
    agenttune_fixed: tuple[str, ...] = ()
    """Constructor arguments that no command can change."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        # The name of the seed system's keyword, so that its users' scripts run as they are.
        extra = kwargs.pop("interactive_parameter_names", ())
        if extra:
            return _extended(cls, [*runtime_names(cls), *extra])(*args, **kwargs)
        arguments = Arguments.of(cls, args, kwargs)
        dataset = super().__call__(*args, **kwargs)
        _share(dataset, arguments)
        return dataset


def runtime_names(cls: type[Any]) -> tuple[str, ...]:
    """The runtime parameters that a class declares, without its private state."""
    found = {
        name: value
        for base in reversed(cls.__mro__)
        for name, value in vars(base).items()
        if isinstance(value, RuntimeAttribute)
    }
    private = getattr(cls, "agenttune_private", ())
    return tuple(name for name in found if name not in private)


def _share(dataset: Any, arguments: Arguments) -> None:
    """Move what the constructor set into shared memory."""
    cls: Any = type(dataset)
    names = runtime_names(cls)
    private = cls.agenttune_private
    values = {name: getattr(dataset, name, _MISSING) for name in (*names, *private)}
    for name, value in values.items():
        _check_shareable(cls.__name__, name, value)
    optional = cls.agenttune_optional | {name for name in names if values[name] is None}
    shared = SharedValues(values)
    dataset.__dict__.pop(_DRAFT, None)
    dataset.__dict__[ATTRIBUTE] = DatasetParameters(
        shared, names, private, cls.agenttune_fixed, optional, cls.agenttune_checks, arguments
    )


def _check_shareable(owner: str, name: str, value: Any) -> None:
    if value is _MISSING:
        raise UserError(
            f"{owner} has no attribute {name!r} after its constructor; a runtime parameter is an attribute that "
            f"__getitem__ or __iter__ reads, or give it a value: runtime={{{name!r}: ...}}",
            field="runtime",
        )
    if not is_plain(value):
        raise UserError(
            f"runtime parameter {name!r} of {owner} is a {type(value).__name__}; it can be a number, a text, true or "
            "false, None, or a list, tuple or dict of these",
            field="runtime",
        )


# -- making the class ----------------------------------------------------------------------------------------------


def make_interactive_dataset(
    dataset: Any,
    runtime: Runtime = (),
    *,
    checks: Mapping[str, Check] | None = None,
    optional: Iterable[str] = (),
    transform: Callable[..., Any] | None = None,
) -> Any:
    """A dataset whose parameters can be changed while a run draws from it.

    Given a class (map-style or iterable), a class with the same constructor:

        Noisy = make_interactive_dataset(NoisyText, runtime=["noise"])
        dataset = Noisy(part="train", noise=0.1)

    *Runtime parameters* are attributes that `__getitem__` or `__iter__` read; a change is seen by the next sample
    made, in data-loader workers too, and by the next batch trained on. *Initialization parameters* are the
    constructor's arguments; a change builds a new dataset. With no change asked for, samples are those of the plain
    class, to the bit.

    Given an object (a `datasets.Dataset` or any other dataset), the object with `transform` applied to every sample:

        train = make_interactive_dataset(train, transform=add_noise, runtime={"noise": 0.0})

    where `add_noise(example, noise)` gets the runtime values as keyword arguments.

    A value must have the type of the one in force. The class may have methods `validate_<name>(value)` that refuse a
    value (return False or a reason, or raise ValueError); with such a check, a list may change its length.

    Args:
        dataset: A class, or a dataset.
        runtime: Names of runtime parameters, or a mapping with the values of those that the constructor does not set.
        checks: Checks by name, as `validate_<name>`.
        optional: Runtime parameters that may be set to None; those that start as None may anyway.
        transform: For an object: makes a sample of a sample.

    Raises:
        UserError: A runtime parameter that is none, or cannot be one.
    """
    values = dict(runtime) if isinstance(runtime, Mapping) else dict.fromkeys(_names(runtime), _MISSING)
    judges = dict(checks or {})
    _refuse_strangers({*judges, *optional}, set(values))
    if isinstance(dataset, type):
        if transform is not None:
            raise UserError("transform belongs to a dataset object; a class makes its own samples", field="transform")
        return _interactive_class(dataset, values, judges, frozenset(optional))
    return _wrap(dataset, values, judges, frozenset(optional), transform)


def _names(runtime: Iterable[str]) -> list[str]:
    names = [runtime] if isinstance(runtime, str) else list(runtime)
    if not all(isinstance(name, str) and name.isidentifier() for name in names):
        raise UserError(f"runtime parameters are given by name, not as {names!r:.80}", field="runtime")
    return names


def _refuse_strangers(named: set[str], known: set[str]) -> None:
    for name in sorted(named - known):
        raise UserError(f"{name!r} is not among the runtime parameters: {', '.join(sorted(known)) or 'none'}")


def _interactive_class(
    origin: type[Any], values: Mapping[str, Any], checks: Mapping[str, Check], optional: frozenset[str]
) -> type[Any]:
    for name in values:
        if isinstance(inspect.getattr_static(origin, name, None), property) or name.startswith("__"):
            raise UserError(
                f"{name!r} is computed by {origin.__name__}, it cannot be set; declare the attributes it is made of",
                field="runtime",
            )
    own = type(origin)
    meta = InteractiveType if issubclass(InteractiveType, own) else own
    if not issubclass(meta, InteractiveType):
        meta = type("InteractiveType", (InteractiveType, own), {})
    body = {
        "__doc__": origin.__doc__,
        "__module__": origin.__module__,
        "__qualname__": origin.__qualname__,
        "agenttune_origin": origin,
        "agenttune_checks": {**getattr(origin, "agenttune_checks", {}), **checks},
        "agenttune_optional": getattr(origin, "agenttune_optional", frozenset()) | optional,
        "agenttune_private": getattr(origin, "agenttune_private", ()),
        **{name: RuntimeAttribute(name, _default(origin, name, value)) for name, value in values.items()},
    }
    made: type[Any] = new_class(origin.__name__, (origin,), {"metaclass": meta}, lambda space: space.update(body))
    _make_portable(made)
    return made


def _default(origin: type[Any], name: str, given: Any) -> Any:
    """The value that an attribute of the class itself gives, where none was named."""
    inherited = getattr(origin, name, _MISSING)
    return inherited if given is _MISSING and not isinstance(inherited, RuntimeAttribute) else given


def _extended(cls: type[Any], names: list[str]) -> type[Any]:
    return _interactive_class(cls, dict.fromkeys(dict.fromkeys(names), _MISSING), {}, frozenset())


def _wrap(
    dataset: Any,
    values: dict[str, Any],
    checks: Mapping[str, Check],
    optional: frozenset[str],
    transform: Callable[..., Any] | None,
) -> Any:
    if parameters_of(dataset) is not None:
        raise UserError("this dataset is interactive already", field="dataset")
    is_stream = isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__")
    is_map = hasattr(dataset, "__getitem__") and not is_stream
    if not is_map and not hasattr(dataset, "__iter__"):
        raise UserError(f"a dataset or a dataset class is expected, not a {type(dataset).__name__}", field="dataset")
    if transform is None:
        raise UserError(
            "a dataset object has no code of yours that reads runtime parameters; give transform=, a function that "
            "gets a sample and the runtime parameters as keyword arguments",
            field="transform",
        )
    for name, value in values.items():
        _check_shareable("the transform", name, value)
    none_now = {name for name, value in values.items() if value is None}
    parameters = DatasetParameters(SharedValues(values), tuple(values), (), (), optional | none_now, checks)
    return WrappedItems(dataset, transform, parameters) if is_map else WrappedStream(dataset, transform, parameters)


# -- pickling, for spawned workers ---------------------------------------------------------------------------------

_made: WeakValueDictionary[str, type[Any]] = WeakValueDictionary()
"""Classes made in this process, so that a copy made in it is of the very same class."""


def _make_portable(made: type[Any]) -> None:
    """A class made at run time cannot be found by its name: a pickle names the plain class, and what is shared."""
    token = uuid.uuid4().hex

    def reduce_ex(self: Any, protocol: Any) -> Any:
        reduced = super(made, self).__reduce_ex__(max(2, int(protocol)))
        if reduced[0] is _revive:
            return reduced
        if reduced[0] is not vars(copyreg)["__newobj__"]:
            raise TypeError(
                f"{made.__name__} has a __reduce__ of its own, which would lose its link to the training process; "
                "use __getstate__ and __setstate__, or no spawned workers"
            )
        cls, *rest = reduced[1]
        own = vars(cls).get("agenttune_token")
        return (_revive, (_reference(cls), own, runtime_names(cls), parameters_of(self), rest), *reduced[2:])

    _made[token] = made
    for name, value in {"agenttune_token": token, "__reduce_ex__": reduce_ex}.items():
        setattr(made, name, value)


def _reference(cls: type[Any]) -> type[Any]:
    """The class itself if it can be found by its name, else the one that it was made of."""
    while "agenttune_origin" in vars(cls) and not _is_importable(cls):
        cls = cls.agenttune_origin
    return cls


def _is_importable(cls: type[Any]) -> bool:
    found: Any = sys.modules.get(cls.__module__)
    for part in cls.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is cls


def _revive(
    reference: type[Any],
    token: str | None,
    names: tuple[str, ...],
    parameters: DatasetParameters | None,
    args: list[Any],
) -> Any:
    cls = reference if token is None else _made.get(token, reference)
    if not set(names) <= set(runtime_names(cls)):
        cls = _interactive_class(reference, dict.fromkeys(names, _MISSING), {}, frozenset())
    dataset = cls.__new__(cls, *args)
    if parameters is not None:
        dataset.__dict__[ATTRIBUTE] = parameters
    return dataset
