"""Random states: those of the process, and those of generators that a dataset, sampler, collator or model holds.

Without the second kind a restored run would draw other random numbers wherever somebody has made a generator.
"""

from __future__ import annotations

import functools
import random
import types
from collections.abc import Hashable, Iterable, Mapping
from typing import Any, cast

import torch
from torch import nn

DEPTH = 6
"""Attributes of attributes that are looked at: a loader's sampler's dataset's transform."""
MOST_ITEMS = 32
"""Longest container that is looked into; longer ones are data."""
SKIPPED = (str, bytes, int, float, bool, type(None), torch.Tensor, type)


def find(roots: Mapping[str, object]) -> dict[str, Any]:
    """Generators below some objects, each once, by where they were found, such as `dataset.rng`."""
    found: dict[str, Any] = {}
    seen: set[int] = set()
    level: list[tuple[str, object]] = list(roots.items())
    for _ in range(DEPTH):
        below: list[tuple[str, object]] = []
        for name, held in level:
            if id(held) in seen or isinstance(held, SKIPPED):
                continue
            seen.add(id(held))
            if is_generator(held):
                found[name] = held
            else:
                below += _inside(name, held)
        level = below
    return found


def find_in_model(model: nn.Module) -> dict[str, Any]:
    """Generators that a model's layers hold."""
    return {
        f"{name}.{key}" if name else key: value
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if is_generator(value)
    }


def _inside(name: str, held: object) -> Iterable[tuple[str, object]]:
    if isinstance(held, (list, tuple, Mapping)):
        if len(held) > MOST_ITEMS:
            return []
        pairs = held.items() if isinstance(held, Mapping) else enumerate(held)
        return [(f"{name}.{key}", value) for key, value in pairs]
    if isinstance(held, nn.Module):
        return []
    kept = getattr(held, "__dict__", None)
    inside = [*(kept.items() if isinstance(kept, dict) else ()), *_bound(held)]
    return [(f"{name}.{key}", value) for key, value in inside]


def _bound(held: object) -> list[tuple[str, object]]:
    """What a method, a partial function or a function within another carries with it."""
    if isinstance(held, functools.partial):
        return [("func", held.func), ("args", held.args), ("keywords", held.keywords)]
    if isinstance(held, types.MethodType):
        return [("self", held.__self__)]
    if isinstance(held, types.FunctionType) and held.__closure__:
        names = held.__code__.co_freevars
        return [(n, c.cell_contents) for n, c in zip(names, held.__closure__, strict=True) if _is_filled(c)]
    return []


def _is_filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - an empty one raises
    except ValueError:
        return False
    return True


def is_generator(held: object) -> bool:
    """Whether this is a random generator of torch, numpy or Python's."""
    return _is_kind(cast(Hashable, type(held)))


@functools.lru_cache(maxsize=1024)
def _is_kind(kind: type) -> bool:
    """By class: a model's attributes are asked one by one, at every state that is kept."""
    if issubclass(kind, (torch.Generator, random.Random)):
        return True
    return kind.__module__.partition(".")[0] == "numpy" and kind.__name__ in ("Generator", "RandomState")


def read(found: Mapping[str, Any]) -> dict[str, Any]:
    """Their states."""
    return {name: _state(generator) for name, generator in found.items()}


def _state(generator: Any) -> Any:
    if isinstance(generator, random.Random):
        return generator.getstate()
    if hasattr(generator, "bit_generator"):
        return generator.bit_generator.state
    return generator.get_state()


def restore(found: Mapping[str, Any], states: Mapping[str, Any]) -> None:
    """Put states back into those that have one."""
    for name, generator in found.items():
        if name not in states:
            continue
        if isinstance(generator, random.Random):
            version, inner, gauss = states[name]
            generator.setstate((version, tuple(inner), gauss))
        elif hasattr(generator, "bit_generator"):
            generator.bit_generator.state = states[name]
        else:
            generator.set_state(states[name])


EVERY_DEVICE = "cuda_all"
"""Key of the states of all devices that one process drives; transformers, which keeps one, does not look at it."""


def read_rng() -> dict[str, Any]:
    """Random states of this process, under the names that transformers uses in `rng_state.pth`."""
    states: dict[str, Any] = {"python": random.getstate(), "cpu": torch.random.get_rng_state()}
    numpy = _numpy()
    if numpy is not None:
        states["numpy"] = numpy.random.get_state()
    if torch.cuda.is_available():
        every = torch.cuda.random.get_rng_state_all()
        # transformers reads all of them in a distributed run, else that of the device in use, and gives up on others.
        is_alone = not (torch.distributed.is_available() and torch.distributed.is_initialized())
        states["cuda"] = every[torch.cuda.current_device()] if is_alone else every
        if is_alone and len(every) > 1:
            states[EVERY_DEVICE] = every
    return states


def restore_rng(states: Mapping[str, Any]) -> None:
    """Put random states back, those there are."""
    if "python" in states:
        version, inner, gauss = states["python"]
        random.setstate((version, tuple(inner), gauss))
    if "cpu" in states:
        torch.random.set_rng_state(states["cpu"])
    numpy = _numpy()
    if "numpy" in states and numpy is not None:
        numpy.random.set_state(states["numpy"])
    if "cuda" in states and torch.cuda.is_available():
        cuda = states.get(EVERY_DEVICE, states["cuda"])
        if isinstance(cuda, torch.Tensor):
            torch.cuda.random.set_rng_state(cuda)
        else:
            torch.cuda.random.set_rng_state_all(cuda)


def same_rng(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two random states of the processor's generators are the same."""
    if a["python"] != b["python"] or not torch.equal(a["cpu"], b["cpu"]):
        return False
    one, other = a.get("numpy"), b.get("numpy")
    return one is None or other is None or (one[2] == other[2] and bool((one[1] == other[1]).all()))


def _numpy() -> Any:
    try:
        import numpy
    except ImportError:
        return None
    return numpy
