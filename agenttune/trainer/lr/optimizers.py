"""Reading, checking and writing the hyperparameters of any `torch.optim.Optimizer` (the rate: see schedules.py)."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import Optimizer

from agenttune.errors import NotSupported, UserError
from agenttune.protocol.commands import UpdateOptimizer
from agenttune.protocol.metrics import is_number
from agenttune.trainer.lr.schedule_kinds import store

TOLERANCE_FRAC = 1e-6
"""Two values are the same within this share: a float32 tensor holds no more digits."""
STRUCTURAL = frozenset(
    {"foreach", "fused", "capturable", "differentiable", "maximize", "relative_step", "warmup_init"}
    | {"initial_accumulator_value", "step_sizes", "t0"}
)
"""Read when the optimizer is built or its state made; a live change would do nothing, or break the next step."""
COUNTS = frozenset({"ns_steps", "max_iter", "max_eval", "history_size"})
"""Whole numbers that torch counts up to; others that stand as one, such as a momentum of 0, may be fractions."""
SCHEDULED = frozenset({"lr", "initial_lr", "max_lr", "min_lr", "max_momentum", "base_momentum"})
"""What schedules keep in the groups; `lr` has its own field."""
NAMED = ("weight_decay", "betas", "eps", "momentum")


@dataclass(frozen=True)
class Write:
    """One value to be written to one parameter group."""

    group: int
    name: str
    value: Any


def inner_optimizer(optimizer: Optimizer) -> Optimizer:
    """The optimizer inside accelerate's wrapper."""
    inner = getattr(optimizer, "optimizer", None)
    return inner if isinstance(inner, Optimizer) else optimizer


def exempt_groups(optimizer: Optimizer) -> frozenset[int]:
    """Groups meant to have no weight decay: 0 while another has some, or, if all are 0, only vectors and scalars."""
    groups = optimizer.param_groups
    decays = [float(group.get("weight_decay") or 0.0) for group in groups]
    if any(decays):
        return frozenset(i for i, decay in enumerate(decays) if decay == 0.0)
    flat = frozenset(i for i, group in enumerate(groups) if all(p.ndim <= 1 for p in group["params"]))
    return flat if len(flat) < len(groups) else frozenset()


def tunable_names(optimizer: Optimizer) -> list[str]:
    """Hyperparameters that can be changed live, in the groups' order."""
    return [name for name in optimizer.param_groups[0] if _is_tunable(optimizer, name)]


def _is_tunable(optimizer: Optimizer, name: str) -> bool:
    if name == "params" or name in STRUCTURAL | SCHEDULED or not _is_option(optimizer, name):
        return False
    value = optimizer.param_groups[0].get(name)
    numeric = isinstance(value, (bool, int, float)) or (isinstance(value, torch.Tensor) and value.numel() == 1)
    pair = isinstance(value, (tuple, list)) and all(isinstance(v, (int, float, torch.Tensor)) for v in value)
    return numeric or (pair and bool(value))


def _is_option(optimizer: Optimizer, name: str) -> bool:
    """Whether it can be given to the optimizer, and is none of what torch sets in the groups by itself."""
    inner = inner_optimizer(optimizer)
    return not _is_known(inner) or name in inspect.signature(type(inner)).parameters


def _is_known(inner: Optimizer) -> bool:
    """Whether its constructor can be asked what it takes: torch's and transformers' have no side effects."""
    return type(inner).__module__.startswith(("torch.optim", "transformers."))


def read_value(optimizer: Optimizer, name: str) -> list[Any]:
    """One hyperparameter per group, as plain numbers; None where a group lacks it."""
    return [_plain(group.get(name)) for group in optimizer.param_groups]


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.item()
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    return value


def same(found: Any, expected: Any) -> bool:
    """Equal, numbers within `TOLERANCE_FRAC`."""
    if isinstance(found, (list, tuple)) and isinstance(expected, (list, tuple)):
        return len(found) == len(expected) and all(same(a, b) for a, b in zip(found, expected, strict=True))
    if isinstance(found, bool) or isinstance(expected, bool):
        return found is expected
    if isinstance(found, (int, float)) and isinstance(expected, (int, float)):
        return math.isclose(found, expected, rel_tol=TOLERANCE_FRAC, abs_tol=1e-45)
    return bool(found == expected)


def plan_writes(optimizer: Optimizer, command: UpdateOptimizer, exempt: frozenset[int]) -> list[Write]:
    """Everything that a command writes beside the rate, checked in full before any of it is written.

    Raises:
        UserError: Unknown name, wrong type or length, refused by the optimizer's own constructor.
        NotSupported: A value that cannot change while training runs.
    """
    asked: dict[str, Any] = {name: getattr(command, name) for name in NAMED if getattr(command, name) is not None}
    for name, value in command.other.items():
        if name in asked or name == "lr":
            raise UserError(f"give {name} in its own field, not in 'other'", field=f"other.{name}")
        asked[name] = value
    check_group(optimizer, command.param_group)
    writes = [w for name, value in asked.items() for w in _plan_one(optimizer, name, value, command, exempt)]
    _try_constructor(optimizer, writes)
    return writes


def check_group(optimizer: Optimizer, index: int | None) -> None:
    """Raises UserError if there is no such parameter group."""
    count = len(optimizer.param_groups)
    if index is not None and index >= count:
        raise UserError(
            f"param_group {index} does not exist; this optimizer has {count}, 0 to {count - 1}",
            field="param_group",
            allowed=list(range(count)),
        )


def _plan_one(
    optimizer: Optimizer, name: str, value: Any, command: UpdateOptimizer, exempt: frozenset[int]
) -> Iterable[Write]:
    kind = type(inner_optimizer(optimizer)).__name__
    if name in STRUCTURAL:
        raise NotSupported(f"{name} of {kind} is fixed when the optimizer is built and cannot change in a run")
    if not _is_tunable(optimizer, name):
        if optimizer.param_groups[0].get(name, 0) is None:
            raise NotSupported(f"{name} of {kind} is off (None); turning it on needs state that it has not kept")
        allowed = ["lr", *tunable_names(optimizer)]
        raise UserError(
            f"{kind} has no hyperparameter {name!r} that can be changed; it has: {', '.join(allowed)}",
            field=name if name in NAMED else f"other.{name}",
            allowed=allowed,
        )
    chosen = _chosen(optimizer, name, command.param_group, exempt)
    return [Write(i, name, _fitted(optimizer.param_groups[i][name], value, name, kind)) for i in chosen]


def _chosen(optimizer: Optimizer, name: str, only: int | None, exempt: frozenset[int]) -> list[int]:
    if only is not None:
        return [only]
    everywhere = [i for i, group in enumerate(optimizer.param_groups) if name in group]
    return [i for i in everywhere if i not in exempt] if name == "weight_decay" else everywhere


def _fitted(current: Any, value: Any, name: str, kind: str) -> Any:
    """`value` in the type of `current`, or a UserError."""
    now = _plain(current)
    if isinstance(now, list):
        if not isinstance(value, (list, tuple)) or len(value) != len(now) or not all(map(_is_number, value)):
            raise UserError(f"{name} of {kind} is a list of {len(now)} numbers (now {now}), not {value!r}", field=name)
        return tuple(float(v) for v in value) if isinstance(current, tuple) else [float(v) for v in value]
    if isinstance(now, bool):
        if not isinstance(value, bool):
            raise UserError(f"{name} of {kind} is true or false (now {now}), not {value!r}", field=name)
        return value
    if not _is_number(value):
        raise UserError(f"{name} of {kind} is a number (now {now}), not {value!r}", field=name)
    if name not in COUNTS:
        return float(value)
    if value != int(value):
        raise UserError(f"{name} of {kind} is a whole number (now {now}), not {value!r}", field=name)
    return int(value)


def _is_number(value: object) -> bool:
    return is_number(value) and math.isfinite(value)


def _try_constructor(optimizer: Optimizer, writes: list[Write]) -> None:
    """Ask the optimizer's own constructor whether it would take the new values."""
    inner = inner_optimizer(optimizer)
    if not writes or not _is_known(inner):
        return
    accepted = inspect.signature(type(inner)).parameters
    for index in {write.group for write in writes}:
        group = inner.param_groups[index]
        values = {k: _plain(v) for k, v in group.items() if k in accepted and k not in STRUCTURAL | {"params"}}
        values |= {w.name: w.value for w in writes if w.group == index}
        values |= {k: group[k] for k in ("relative_step", "warmup_init") if k in group}
        if group.get("relative_step"):  # its schedule writes the rate it computed into the group
            values["lr"] = None
        like = torch.zeros([1] * max(1, group["params"][0].ndim), requires_grad=True)  # Muon takes matrices only
        try:
            type(inner)([like], **values)
        except ValueError as error:
            raise UserError(f"{type(inner).__name__} refuses this: {error}") from None


def apply_writes(optimizer: Optimizer, writes: list[Write]) -> Callable[[], None]:
    """Write, make the optimizer state that needs to exist, and return what undoes the state (not the values).

    Raises:
        NotSupported: The value needs state that this optimizer's class is not known to build.
    """
    undo_state = _make_state(optimizer, writes)
    for write in writes:
        group = optimizer.param_groups[write.group]
        current = group[write.name]
        if isinstance(current, (tuple, list)) and any(isinstance(v, torch.Tensor) for v in current):
            for tensor, value in zip(current, write.value, strict=True):
                tensor.fill_(value)
        else:
            store(group, write.name, write.value)
    return undo_state


def differing(optimizer: Optimizer, writes: list[Write]) -> list[str]:
    """What does not read back as written."""
    return [
        f"{w.name} of group {w.group}: asked {w.value}, found {_plain(optimizer.param_groups[w.group].get(w.name))}"
        for w in writes
        if not same(_plain(optimizer.param_groups[w.group].get(w.name)), _plain(w.value))
    ]


_NEEDED_STATE = {
    ("Adam", "amsgrad"): ("max_exp_avg_sq", "exp_avg_sq"),
    ("AdamW", "amsgrad"): ("max_exp_avg_sq", "exp_avg_sq"),
    ("RMSprop", "centered"): ("grad_avg", "square_avg"),
    ("RMSprop", "momentum"): ("momentum_buffer", "square_avg"),
}
"""Tensors that torch's own optimizers expect once a value is on, and the tensor they are shaped like (torch 2.13)."""
_STATELESS = frozenset({"SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Adadelta", "Adamax", "NAdam", "RAdam"})


def _make_state(optimizer: Optimizer, writes: list[Write]) -> Callable[[], None]:
    inner = inner_optimizer(optimizer)
    kind, ours = type(inner).__name__, type(inner).__module__.startswith("torch.optim")
    made: list[tuple[dict[str, Any], str]] = []
    for write in writes:
        group = inner.param_groups[write.group]
        if not write.value or _plain(group[write.name]) or write.name not in ("amsgrad", "centered", "momentum"):
            continue
        if not ours or kind not in _STATELESS:
            raise NotSupported(f"turning {write.name} on needs state of {kind} that only it knows how to make")
        key, model = _NEEDED_STATE.get((kind, write.name), ("", ""))
        for parameter in group["params"] if key else ():
            state = inner.state.get(parameter)
            if state and key not in state:
                state[key] = torch.zeros_like(state[model], memory_format=torch.preserve_format)
                made.append((state, key))

    def undo() -> None:
        for state, key in made:
            del state[key]

    return undo
