"""Re-initializing a layer as its model does: `_init_weights` of transformers' models, else `reset_parameters`."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import LBFGS, Adagrad, Optimizer

from agenttune.errors import NotSupported, UserError
from agenttune.trainer.layers.layer_snapshot import LayerSnapshot
from agenttune.trainer.layers.permissions import takes_only
from agenttune.trainer.lr.optimizers import inner_optimizer

CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)
HF_DONE = "_is_hf_initialized"
"""transformers 5 skips what carries this mark, which everything loaded from a checkpoint does."""


@dataclass
class Fresh:
    """What a reset did.

    Attributes:
        parameters: Tensors with new values.
        kept: Names of those that nothing knows how to initialize; they are as they were.
        owner: Class whose `_init_weights` was used, if one was.
    """

    parameters: list[nn.Parameter]
    kept: list[str]
    owner: str


def can_reset(layer: nn.Module, owner: nn.Module | None) -> bool:
    """Whether there is anything to try: weights of its own, and somebody who may know how they begin."""
    has_weights = any(p is not None for p in layer._parameters.values())
    return has_weights and (owner is not None or _own_reset(layer) is not None)


def knows_weights(module: nn.Module) -> bool:
    """Whether a module initializes what is in it, as transformers' models do."""
    method: Any = getattr(module, "_init_weights", None)
    return callable(method) and takes_only(method, 1)


def reset(model: nn.Module, name: str) -> Fresh:
    """Give a layer, and all in it, new weights; tensors stay the same objects, so tied ones stay tied.

    Raises:
        UserError: It has no parameters, or nothing knows how to initialize them; nothing has changed.
        NotSupported: Weights that are quantized or spread over processes.
    """
    layer = model.get_submodule(name)
    parameters = list(layer.parameters())
    check_whole(parameters, name)
    path = _path(model, name)
    owner = next((m for m in reversed(path) if knows_weights(m)), None)
    snapshot = LayerSnapshot(layer)
    try:
        with torch.no_grad(), _unmarked(layer):
            for parameter in parameters:  # what still is NaN afterwards has not been initialized
                parameter.fill_(float("nan"))
            _initialize(layer, owner)
            if len(path) > 1:
                _initialize_by_parent(path[-2], owner, layer)
        missed = [p for p in parameters if bool(p.isnan().any())]
        snapshot.restore_only(list(missed))
        if snapshot.was_rebuilt():
            raise NotSupported(f"initializing {name!r} replaces its tensors, which the optimizer would not train")
    except BaseException:
        snapshot.restore()
        raise
    if len(missed) == len(parameters):
        kinds = sorted({type(m).__name__ for m in layer.modules() if m._parameters})
        raise UserError(
            f"nothing knows how to initialize {name!r}: neither {', '.join(kinds)} nor a model around it has a "
            "reset_parameters or _init_weights for it; allow an operation of your own with allow_layer_operation"
        )
    kept = [n for n, p in model.named_parameters() if any(p is m for m in missed)]
    fresh = [p for p in parameters if not any(p is m for m in missed)]
    return Fresh(fresh, kept, type(owner).__name__ if owner is not None else "")


def check_whole(tensors: list[Any], name: str) -> None:
    """Raises unless there are tensors, each plain, of floating point and wholly in this process."""
    if not tensors:
        raise UserError(f"layer {name!r} has no parameters")
    for tensor in tensors:
        if hasattr(tensor, "ds_id") or type(tensor).__name__ in ("DTensor", "FlatParameter") or tensor.is_meta:
            raise NotSupported(f"the weights of {name!r} are spread over processes; they cannot be written live")
        if not tensor.is_floating_point():
            raise NotSupported(f"the weights of {name!r} are {tensor.dtype}: quantized ones cannot be initialized")


def _path(model: nn.Module, name: str) -> list[nn.Module]:
    """The modules from the model down to the layer."""
    path = [model]
    for part in name.split(".") if name else ():
        path.append(path[-1].get_submodule(part))
    return path


def _initialize(module: nn.Module, owner: nn.Module | None) -> None:
    """Children first, as transformers does: a block may have its own idea of its layers' weights."""
    for child in module.children():
        _initialize(child, child if knows_weights(child) else owner)
    if owner is not None:
        owner._init_weights(module)  # type: ignore[operator]
    own = _own_reset(module)
    if own is not None and (owner is None or _has_missed(module)):
        own()
    if isinstance(module, nn.modules.batchnorm._NormBase):
        module.reset_running_stats()


def _own_reset(module: nn.Module) -> Any:
    for name in ("reset_parameters", "_reset_parameters"):
        method = getattr(module, name, None)
        if callable(method) and takes_only(method, 0):
            return method
    return None


def _has_missed(module: nn.Module) -> bool:
    return any(bool(p.isnan().any()) for p in module._parameters.values() if p is not None)


def _initialize_by_parent(parent: nn.Module, owner: nn.Module | None, layer: nn.Module) -> None:
    """The block around a layer has the last word: GPT-2's scales down `c_proj`. What else it holds stays as it is."""
    if owner is None or owner in (parent, layer) or knows_weights(parent) or isinstance(parent, CONTAINERS):
        return
    ours = {id(t) for t in (*layer.parameters(), *layer.buffers())}
    others = LayerSnapshot(parent)
    owner._init_weights(parent)  # type: ignore[operator]
    others.restore_only([t for t in others.values if id(t) not in ours])


@contextlib.contextmanager
def _unmarked(layer: nn.Module) -> Iterator[None]:
    """Without transformers' mark of being initialized, on modules and tensors; it is restored afterwards."""
    things: list[Any] = [*layer.modules(), *layer.parameters(), *layer.buffers()]
    marked = [thing for thing in things if HF_DONE in vars(thing)]
    values = [vars(thing).pop(HF_DONE) for thing in marked]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch warns of initializing an empty tensor
            yield
    finally:
        for thing, value in zip(marked, values, strict=True):
            setattr(thing, HF_DONE, value)


def check_clearable(optimizer: Optimizer) -> None:
    """Raises if the optimizer keeps one state for all parameters."""
    if isinstance(inner_optimizer(optimizer), LBFGS):
        raise NotSupported("LBFGS keeps one history for all parameters; it cannot forget those of one layer")


def clear_state(optimizer: Optimizer, parameters: list[nn.Parameter]) -> int:
    """Make the optimizer forget what it knows of these parameters.

    Returns:
        The number of parameters (elements) it knew something of.
    """
    inner, count = inner_optimizer(optimizer), 0
    for parameter in parameters:
        if not inner.state.get(parameter):
            continue
        count += parameter.numel()
        if isinstance(inner, Adagrad):  # makes its state when it is built, and would miss it
            inner.state[parameter]["sum"].fill_(inner.defaults["initial_accumulator_value"])
            inner.state[parameter]["step"].fill_(0.0)
        else:
            del inner.state[parameter]
    return count
