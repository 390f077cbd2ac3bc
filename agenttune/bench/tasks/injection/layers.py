"""Faults that strike one layer: a leaf module, chosen by the seed and named by its dotted name."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from agenttune.bench.tasks.injection.accidents import AtOneStep
from agenttune.bench.tasks.injection.injector import Injector, injects
from agenttune.bench.training import Agent, Live
from agenttune.errors import UserError

LARGE_LAYER_FRAC = 0.25
"""Layers are struck that have at least this part of the largest one's weights: small ones hardly matter (measured)."""
PART_FRACS = (0.25, 0.9)
"""Part of all weights that a block has that is frozen: without a smaller one training hardly suffers (measured)."""
SATURATING = ("Relu", "Gelu", "Silu", "Tanh", "Sigmoid", "Elu", "Hardtanh", "Threshold")
"""What lets no gradient through far below zero, as autograd names it."""
ELEMENTWISE = ("Mul", "Add", "Pow", "Div", "View", "Reshape", "UnsafeView", "Transpose", "Permute", "T", "Clone")
"""What may lie between a layer and that."""


def large_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Leaf modules with most of the trained weights, by dotted name."""
    sizes = {name: _weights(module) for name, module in model.named_modules()}
    least = LARGE_LAYER_FRAC * max(sizes.values(), default=0)
    return {name: module for name, module in model.named_modules() if sizes[name] and sizes[name] >= least}


def _weights(module: nn.Module) -> int:
    weight = getattr(module, "weight", None)
    if not isinstance(weight, nn.Parameter) or any(True for _ in module.children()):
        return 0
    return weight.numel() if weight.requires_grad and weight.dim() > 1 else 0


def large_parts(model: nn.Module) -> dict[str, nn.Module]:
    """Layers and blocks with a good part of the trained weights, but not nearly all of them, by dotted name."""
    shares = {name: _share(module, model) for name, module in model.named_modules() if name}
    least, most = PART_FRACS
    found = {name for name, share in shares.items() if least <= share <= most}
    if not found:  # many small ones: the largest
        found = {max((name for name in shares if shares[name] <= most), key=lambda name: shares[name])}
    return {name: model.get_submodule(name) for name in found}


def _share(module: nn.Module, model: nn.Module) -> float:
    whole = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return sum(p.numel() for p in module.parameters() if p.requires_grad) / max(1, whole)


def dropout_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Layers of dropout, by dotted name."""
    kinds = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
    return {name: module for name, module in model.named_modules() if isinstance(module, kinds)}


def chosen(layers: dict[str, nn.Module], seed: int, fault: str) -> str:
    """One of them, by the seed.

    Raises:
        UserError: There are none.
    """
    if not layers:
        raise UserError(f"this model has no layer that {fault} can strike; leave the fault out for this task")
    return random.Random(f"{fault}:{seed}").choice(sorted(layers))


class StruckLayer(Injector):
    """Strikes one layer, chosen at the start."""

    candidates: Callable[[nn.Module], dict[str, nn.Module]] = staticmethod(large_layers)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        layers = type(self).candidates(self.model)
        self.layer = chosen(layers, self.seed, self.fault.kind)
        self.struck = layers[self.layer]


def freeze(layer: nn.Module) -> None:
    """Train it no longer, as agenttune's command does it: a gradient that was left would still be used."""
    for parameter in layer.parameters():
        parameter.requires_grad_(False)
        parameter.grad = None


@injects("frozen_layer")
class FrozenLayer(StruckLayer):
    """A layer or block that is not trained; the optimizer holds it, so that it can be."""

    candidates = staticmethod(large_parts)

    def started(self, live: Live, agent: Agent | None) -> None:
        freeze(self.struck)


@injects("layer_dropout")
class LayerDropout(StruckLayer):
    """A layer that drops nearly all it is given."""

    candidates = staticmethod(dropout_layers)

    def started(self, live: Live, agent: Agent | None) -> None:
        self.struck.p = self.value("p")  # type: ignore[assignment]


@injects("unstable_layer", "layer_lr_x100")
class UnstableLayer(StruckLayer):
    """A layer whose updates are many times too large; frozen, it has none."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._before: list[torch.Tensor] = []

    def after_backward(self, step: int) -> None:
        if step >= self.fault.step:
            self._before = [p.detach().clone() for p in self.struck.parameters()]

    def after_step(self, step: int, is_trial: bool = False) -> None:
        if step <= self.fault.step or not self._before:
            return
        factor = self.value("update_factor")
        with torch.no_grad():
            for parameter, before in zip(self.struck.parameters(), self._before, strict=True):
                parameter.copy_(before + factor * (parameter - before))
        self._before = []


@injects("scaled_layer")
class ScaledLayer(AtOneStep, StruckLayer):
    """A layer whose weights become many times larger at once."""

    def happen(self) -> None:
        with torch.no_grad():
            for parameter in self.struck.parameters():
                parameter.mul_(self.value("factor"))


@injects("reset_layer")
class ResetLayer(AtOneStep, StruckLayer):
    """A layer that begins anew: with the weights that it had before the first step, drawn into another order."""

    def started(self, live: Live, agent: Agent | None) -> None:
        self._first = [p.detach().clone() for p in self.struck.parameters()]

    def happen(self) -> None:
        draw = torch.Generator().manual_seed(self.seed_at(self.fault.step))
        with torch.no_grad():
            for parameter, first in zip(self.struck.parameters(), self._first, strict=True):
                order = torch.randperm(first.numel(), generator=draw).to(first.device)
                parameter.copy_(first.flatten()[order].view_as(first))


@injects("lost_gradients")
class LostGradients(StruckLayer):
    """A layer that gets no gradients from the onset on, as if its output were detached."""

    def after_backward(self, step: int) -> None:
        if step >= self.fault.step:
            for parameter in self.struck.parameters():
                parameter.grad = None


@injects("dead_layer")
class DeadLayer(AtOneStep):
    """A layer with weights of zero whose output lies where the function after it is flat: nothing comes through.

    Which layers can die so is seen in the graph of the first forward pass.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._handles: list[Any] = []
        self._outputs: dict[Any, str] = {}
        self._leaves = {name: m for name, m in self.model.named_modules() if _has_weight_and_bias(m)}
        for name, module in self._leaves.items():
            self._handles.append(module.register_forward_hook(self._note(name)))
        self._handles.append(self.model.register_forward_hook(self._choose))

    def _note(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def note(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor) and output.grad_fn is not None:
                self._outputs[output.grad_fn] = name

        return note

    def _choose(self, module: nn.Module, inputs: Any, output: Any) -> None:
        roots = [tensor.grad_fn for tensor in _tensors(output) if tensor.grad_fn is not None]
        if not roots:
            return  # an evaluation
        names = {self._outputs[node] for start in _saturating(roots) for node in _sources(start, self._outputs)}
        self.layer = chosen({name: self._leaves[name] for name in names}, self.seed, self.fault.kind)
        self._outputs = {}
        for handle in self._handles:
            handle.remove()

    def happen(self) -> None:
        layer: Any = self._leaves[str(self.layer)]
        with torch.no_grad():
            layer.weight.zero_()
            layer.bias.fill_(-self.value("saturation"))


def _has_weight_and_bias(module: nn.Module) -> bool:
    return all(isinstance(getattr(module, name, None), nn.Parameter) for name in ("weight", "bias"))


def _tensors(output: Any) -> Iterator[torch.Tensor]:
    values = output.values() if hasattr(output, "values") else output if isinstance(output, (tuple, list)) else [output]
    return (value for value in values if isinstance(value, torch.Tensor))


def _operation(node: Any) -> str:
    """What autograd's node does, such as `Relu`."""
    return str(node.name()).rpartition("::")[2].partition("Backward")[0]


def _next(node: Any) -> list[Any]:
    return [following for following, _ in node.next_functions if following is not None]


def _saturating(roots: list[Any]) -> Iterator[Any]:
    """All saturating functions in the graph."""
    seen, open_nodes = set(roots), list(roots)
    while open_nodes:
        node = open_nodes.pop()
        if _operation(node) in SATURATING:
            yield node
        new = [following for following in _next(node) if following not in seen]
        seen.update(new)
        open_nodes += new


def _sources(node: Any, outputs: dict[Any, str]) -> Iterator[Any]:
    """Outputs of layers that a function is applied to, with nothing but elementwise operations between."""
    for before in _next(node):
        if before in outputs:
            yield before
        elif _operation(before) in ELEMENTWISE:
            yield from _sources(before, outputs)
