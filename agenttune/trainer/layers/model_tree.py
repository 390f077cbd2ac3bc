"""The model as a tree of layers: what is in each, what can be done to it, how large its weights and gradients are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from agenttune.protocol.events import ModelRead
from agenttune.protocol.run_info import ModuleInfo, ParameterInfo
from agenttune.trainer.adapter import Adapter
from agenttune.trainer.distributed.shards import whole
from agenttune.trainer.layers.layer_changes import bare_model
from agenttune.trainer.layers.permissions import (
    LayerRules,
    limits_of,
    offered_attributes,
    offered_operations,
    offered_tensors,
)
from agenttune.trainer.layers.reset import can_reset, knows_weights
from agenttune.trainer.lr.optimizers import inner_optimizer

Squares = dict[int, float]
"""Square of the norm of each tensor, by the tensor's id."""


@dataclass
class _Walk:
    """What a walk through the model carries along."""

    rules: LayerRules
    trained: Callable[[nn.Parameter], bool]
    weights: Squares | None
    grads: Squares | None
    seen: set[nn.Module] = field(default_factory=set)

    def read(
        self, name: str, module: nn.Module, parent: nn.Module | None, owner: nn.Module | None
    ) -> tuple[ModuleInfo, dict[int, nn.Parameter], bool]:
        """A layer with its parameters, by id: shared ones count once; and whether any of it can be reset."""
        self.seen.add(module)
        owner = module if knows_weights(module) else owner
        inside = {id(p): p for p in module._parameters.values() if p is not None}
        resettable, children = can_reset(module, owner), []
        for child_name, child in module._modules.items():
            if child is None or child in self.seen:
                continue
            full = f"{name}.{child_name}" if name else child_name
            info, below, below_resettable = self.read(full, child, module, owner)
            children.append(info)
            inside.update(below)
            resettable = resettable or below_resettable
        return self._info(name, module, parent, inside, resettable, children), inside, resettable

    def _info(
        self,
        name: str,
        module: nn.Module,
        parent: nn.Module | None,
        inside: dict[int, nn.Parameter],
        resettable: bool,
        children: list[ModuleInfo],
    ) -> ModuleInfo:
        return ModuleInfo.model_construct(  # built from checked parts; validating 10,000 nested ones takes seconds
            name=name,
            type=type(module).__name__,
            parameters=sum(_size(p) for p in inside.values()),
            trainable=sum(_size(p) for p in inside.values() if self.trained(p)),
            operations=offered_operations(module, self.rules, bool(inside), resettable),
            hyperparameters=_parameters(module, self.rules, parent),
            weight_norm=_norm(self.weights, inside),
            grad_norm=_norm(self.grads, inside),
            children=children,
        )


def _size(parameter: Any) -> int:
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def _parameters(module: nn.Module, rules: LayerRules, parent: nn.Module | None) -> list[ParameterInfo]:
    attributes = offered_attributes(module, rules, parent)
    found = [
        ParameterInfo(name=name, value=v, type=type(v).__name__, **limits_of(name, v)) for name, v in attributes.items()
    ]
    for name, tensor in offered_tensors(module).items():
        value = {"shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}
        found.append(ParameterInfo(name=name, value=value, type="tensor"))
    return found


def _norm(squares: Squares | None, inside: Iterable[int]) -> float | None:
    if squares is None:
        return None
    known = [squares[i] for i in inside if i in squares]
    return math.sqrt(sum(known)) if known else None


def read_model(
    model: nn.Module,
    rules: LayerRules,
    optimizer: Optimizer | None = None,
    *,
    name: str = "",
    norms: bool = False,
    grads: Squares | None = None,
) -> ModuleInfo:
    """Read a layer and all in it.

    Args:
        model: The model, out of its wrappers.
        rules: What the user allows.
        optimizer: Only what it holds counts as trained.
        name: The layer to read; empty: the model.
        norms: Also measure the norms of weights.
        grads: Gradient norms, as `GradientMonitor` measured them.
    """
    layer = model.get_submodule(name)
    parent = model.get_submodule(name.rpartition(".")[0]) if name else None
    weights = squares(list(layer.parameters())) if norms else None
    walk = _Walk(rules, _trained(model, optimizer), weights, grads)
    return walk.read(name, layer, parent, owner_of(model, name))[0]


def model_read(adapter: Adapter, rules: LayerRules) -> ModelRead:
    """The event that describes the whole model, for the start and after each change."""
    return ModelRead(model=read_model(bare_model(adapter), rules, adapter.optimizer()))


def owner_of(model: nn.Module, name: str) -> nn.Module | None:
    """The innermost module around a layer that initializes what is in it."""
    module, owner = model, model if knows_weights(model) else None
    for part in name.split(".") if name else ():
        module = module.get_submodule(part)
        owner = module if knows_weights(module) else owner
    return owner


def _trained(model: nn.Module, optimizer: Optimizer | None) -> Callable[[nn.Parameter], bool]:
    """What counts as trained; an optimizer that holds copies of its own (DeepSpeed) tells nothing."""
    held = held_by(optimizer) if optimizer is not None else set()
    if held.isdisjoint(map(id, model.parameters())):
        return lambda p: p.requires_grad
    return lambda p: p.requires_grad and id(p) in held


def held_by(optimizer: Optimizer) -> set[int]:
    """Ids of the parameters that an optimizer holds."""
    return {id(p) for group in optimizer.param_groups for p in group["params"]}


def squares(tensors: list[torch.Tensor]) -> Squares:
    """Squared norms, added up in float32 or better; one wait for the device in all.

    Of tensors that are spread over ranks, the norm of the whole: every rank has to ask.
    """
    return {id(t): value for t, value in zip(tensors, _floats(_norms(tensors)), strict=True)}


def _norms(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    return [whole(torch.linalg.vector_norm(d, dtype=_wide(d))) for d in map(_dense, tensors)]


def _dense(tensor: torch.Tensor) -> torch.Tensor:
    plain = tensor.detach()
    return plain.coalesce().values() if plain.is_sparse else plain


def _wide(tensor: torch.Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _floats(norms: list[torch.Tensor]) -> list[float]:
    if not norms:
        return []
    return [value**2 for value in torch.stack([n.to(norms[0].device, torch.float64) for n in norms]).tolist()]


class GradientMonitor:
    """Measures every gradient's norm, [n_params] in all, in the next update, as the optimizer uses it; once.

    Between steps there are no gradients to look at: loops drop them after the update.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._norms: tuple[list[int], list[torch.Tensor]] | None = None
        self.asked_step = -1
        self._seen_step: int | None = None
        self._hook = inner_optimizer(optimizer).register_step_pre_hook(self._measure)

    def _measure(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        with_grad = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        self._norms = [id(p) for p in with_grad], _norms([p.grad for p in with_grad])
        self.stop()

    @property
    def is_done(self) -> bool:
        """Whether an update has been made since."""
        return self._norms is not None

    def is_fresh(self, step: int) -> bool:
        """Whether the update that it measured is the last one."""
        if self._seen_step is None and self.asked_step == step - 1:
            self._seen_step = step
        return self._seen_step == step

    def squares(self) -> Squares:
        """Squared norms by the id of the parameter, [n_params] in all."""
        ids, norms = self._norms or ([], [])
        return dict(zip(ids, _floats(norms), strict=True))

    def stop(self) -> None:
        """Measure no more."""
        self._hook.remove()
