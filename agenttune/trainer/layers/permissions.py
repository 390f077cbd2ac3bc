"""What may be done to a layer: one rule for the commands that change layers and for the tree that offers them.

Offered without asking: `requires_grad_` and `reset_parameters`; of torch's own layers the attributes in `TORCH_LIVE`;
of every other class its floats (a float is never a shape); parameters and buffers in place. Integers, truth values
and texts mostly say how a layer is built: the user allows those by name, as any other operation.
"""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from agenttune.errors import UserError

Operation = Callable[..., object]
"""Called with the layer and the command's parameters."""

TORCH_LIVE: tuple[tuple[type[nn.Module] | tuple[type[nn.Module], ...], tuple[str, ...]], ...] = (
    (nn.modules.dropout._DropoutNd, ("p",)),
    ((nn.LayerNorm, nn.GroupNorm, nn.RMSNorm), ("eps",)),
    (nn.modules.batchnorm._NormBase, ("eps", "momentum")),
    ((nn.MultiheadAttention, nn.RNNBase), ("dropout",)),
    (nn.LeakyReLU, ("negative_slope",)),
    ((nn.ELU, nn.CELU), ("alpha",)),
    (nn.Softplus, ("beta", "threshold")),
    ((nn.Hardshrink, nn.Softshrink), ("lambd",)),
    (nn.CrossEntropyLoss, ("label_smoothing",)),
)
"""Attributes that torch's layers read at each forward (read in the source of torch 2.13)."""
PROBABILITIES = frozenset(
    {"p", "dropout", "dropout_p", "dropout_prob", "dropout_rate", "attention_dropout", "attn_dropout"}
    | {"activation_dropout", "hidden_dropout", "resid_dropout", "drop_prob", "drop_path", "layerdrop"}
    | {"momentum", "label_smoothing"}
)
"""Between 0 and 1, if they are so now; transformers' configurations also write 0 for 0.0 there."""
EPSILONS = frozenset({"eps", "epsilon", "variance_epsilon", "layer_norm_eps"})
OWN_OPERATIONS = ("reset_parameters", "requires_grad_")
NEAREST = 5
"""Close matches named first."""
SHOWN = 20
"""Names that an error lists at most."""


@dataclass
class LayerRules:
    """What a user allows on layers beyond what is always offered.

    Attributes:
        operations: By name; None: the layer's own method of that name.
        parameters: Names of attributes.
    """

    operations: dict[str, Operation | None] = field(default_factory=dict)
    parameters: set[str] = field(default_factory=set)

    def allow_operation(self, name: str, function: Operation | None = None) -> None:
        """Allow an operation by name: a function called with the layer, or the layer's own method.

        Raises:
            UserError: No plain name, or one that always has its meaning.
        """
        if not name.isidentifier() or name.startswith("_"):
            raise UserError(f"an operation's name is a plain one such as 'shrink', not {name!r}", field="name")
        if name in OWN_OPERATIONS:
            raise UserError(f"{name} is always allowed, and always means the same; choose another name", field="name")
        self.operations[name] = function

    def allow_parameter(self, name: str) -> None:
        """Allow an attribute of layers to be changed: a number, true/false or text, by name.

        Raises:
            UserError: No plain name, or `training`, which the loop itself sets.
        """
        if not name.isidentifier() or name.startswith("_") or name == "training":
            raise UserError(f"a layer's parameter has a plain name such as 'scale', not {name!r}", field="name")
        self.parameters.add(name)


def offered_operations(layer: nn.Module, rules: LayerRules, has_parameters: bool, can_reset: bool) -> list[str]:
    """Names that `model_layer_operation` takes on this layer."""
    own = [name for name, fits in zip(OWN_OPERATIONS, (can_reset, has_parameters), strict=True) if fits]
    allowed = [n for n, function in rules.operations.items() if function is not None or _has_method(layer, n)]
    return own + sorted(allowed)


def _has_method(layer: nn.Module, name: str) -> bool:
    return callable(getattr(type(layer), name, None))


_names: dict[type[nn.Module], tuple[str, ...]] = {}
"""Found once a class: a model has thousands of layers of few classes."""


def _torch_names(kind: type[nn.Module]) -> tuple[str, ...]:
    if kind not in _names:
        _names[kind] = tuple(name for kinds, names in TORCH_LIVE if issubclass(kind, kinds) for name in names)
    return _names[kind]


def offered_attributes(layer: nn.Module, rules: LayerRules, parent: nn.Module | None = None) -> dict[str, Any]:
    """Attributes that `model_layer_parameter_update` takes on this layer, with their values."""
    if parent is not None and is_bypassed(layer, parent):
        return {}
    names = _torch_names(type(layer))
    foreign = type(layer).__module__.split(".", 1)[0] != "torch"
    offered = {}
    for name, value in vars(layer).items():
        if name.startswith("_") or name == "training" or type(value) not in (bool, int, float, str):
            continue
        is_number = type(value) is float or (type(value) is int and name in PROBABILITIES)
        if name in rules.parameters or (is_number and (foreign or name in names)):
            offered[name] = value
    return offered


def is_bypassed(layer: nn.Module, parent: nn.Module) -> bool:
    """Whether a dropout layer is never called: its parent hands its own `dropout_prob` to a fused attention.

    So do the attentions of BERT and its kin in transformers 4 (`BertSdpaSelfAttention`).
    """
    return (
        isinstance(layer, nn.modules.dropout._DropoutNd)
        and parent._modules.get("dropout") is layer
        and isinstance(vars(parent).get("dropout_prob"), float)
    )


def offered_tensors(layer: nn.Module) -> dict[str, torch.Tensor]:
    """The layer's own parameters and buffers that can be written in place: those that a checkpoint holds."""
    saved = {n: buffer for n, buffer in layer._buffers.items() if n not in layer._non_persistent_buffers_set}
    own = {**layer._parameters, **saved}
    return {name: tensor for name, tensor in own.items() if tensor is not None}


def fitted(name: str, current: Any, value: Any) -> Any:
    """`value` in the type of `current` and within the bounds of its name.

    Raises:
        UserError: Another type, or out of bounds.
    """
    wanted = float if type(current) is int and name in PROBABILITIES else type(current)
    if wanted is float and type(value) is int:
        value = float(value)
    if type(value) is not wanted:
        raise UserError(f"{name} is a {wanted.__name__} (now {current!r}), not {value!r:.80}", field="value")
    if wanted is float:
        _check_bounds(name, float(current), value)
    return value


def limits_of(name: str, current: Any) -> dict[str, float]:
    """What a number of this name may be, by the names of `ParameterInfo`; empty: any finite number."""
    if type(current) not in (int, float):
        return {}
    if name in PROBABILITIES and 0 <= current <= 1:
        return {"minimum": 0.0, "maximum": 1.0}
    return {"above": 0.0} if name in EPSILONS else {}


def _check_bounds(name: str, current: float, value: float) -> None:
    if not math.isfinite(value):
        raise UserError(f"{name} is a finite number, not {value!r}", field="value")
    limits = limits_of(name, current)
    if "maximum" in limits and not 0 <= value <= 1:
        raise UserError(
            f"{name} is between 0 and 1, not {value!r}", field="value", allowed={"minimum": 0, "maximum": 1}
        )
    if "above" in limits and value <= 0:
        raise UserError(f"{name} is above 0, not {value!r}", field="value", allowed={"exclusiveMinimum": 0})


def unknown(what: str, asked: str, known: Iterable[str], field_name: str, where: str = "") -> UserError:
    """An error that lists what exists: the closest first, and no more than `SHOWN`."""
    names = list(dict.fromkeys(known))
    last = asked.rpartition(".")[2]
    close = difflib.get_close_matches(asked, names, n=NEAREST, cutoff=0.5)
    close += [name for name in names if last and name.rpartition(".")[2] == last and name not in close][:NEAREST]
    shown = [*close, *(name for name in names if name not in close)][:SHOWN]
    more = f" and {len(names) - len(shown)} more (read_model lists all)" if len(names) > len(shown) else ""
    listed = ", ".join(repr(name) if name == "" else name for name in shown) or "none"
    return UserError(f"no {what} {asked!r}{where}; there is: {listed}{more}", field=field_name, allowed=shown)


def takes_only(method: Callable[..., Any], count: int) -> bool:
    """Whether a method can be called with exactly `count` positional arguments."""
    function = getattr(method, "__func__", None)
    return _takes(method, count) if function is None else _takes(function, count + 1)


@lru_cache(maxsize=4096)  # looked up once a class: a model has thousands of layers of few classes
def _takes(function: Callable[..., Any], count: int) -> bool:
    try:
        inspect.signature(function).bind(*[None] * count)
    except (TypeError, ValueError):
        return False
    return True


SCALARS: dict[str, type] = {"bool": bool, "int": int, "float": float, "str": str}


def check_arguments(name: str, function: Callable[..., Any], params: dict[str, Any], types: dict[str, type]) -> None:
    """Raises UserError unless the function takes these parameters, in these types."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # written in C; it checks for itself
        return
    known = list(signature.parameters)
    try:
        signature.bind(**params)
    except TypeError as error:
        raise UserError(
            f"{name}: {error}; it takes: {', '.join(known) or 'no parameters'}", field="params", allowed=known
        ) from None
    for key, value in params.items():
        wanted = types.get(key) or _wanted(signature.parameters.get(key))
        fits = wanted is None or type(value) is wanted or (wanted is float and type(value) is int)
        if wanted is not None and not fits:
            raise UserError(f"{name}: {key} is a {wanted.__name__}, not {value!r:.80}", field=f"params.{key}")


def _wanted(parameter: inspect.Parameter | None) -> type | None:
    """The type that a parameter says it takes, by annotation or default, if it is a plain one."""
    if parameter is None:
        return None
    annotation = parameter.annotation
    if annotation is inspect.Parameter.empty:
        return type(parameter.default) if type(parameter.default) in SCALARS.values() else None
    name = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    return SCALARS.get(name)
