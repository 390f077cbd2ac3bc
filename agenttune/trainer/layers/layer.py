"""A layer of the model in training, found by its name."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from agenttune.errors import UserError
from agenttune.protocol.text import some
from agenttune.trainer.adapter import Adapter
from agenttune.trainer.layers.layer_changes import bare_model, dotted
from agenttune.trainer.layers.permissions import offered_tensors, unknown


@dataclass(frozen=True)
class Layer:
    """A layer and its place in the model; `name` is empty for the model itself.

    Attributes:
        only: A parameter of the model's own, in none of its layers, which is all that is meant of it; its name is then
            the layer's, as findings have it.
    """

    model: nn.Module
    name: str
    module: nn.Module
    parent: nn.Module | None
    is_compiled: bool = False
    only: nn.Parameter | None = None

    def parameters(self) -> dict[str, nn.Parameter]:
        """By full name, each once."""
        ours = {id(p) for p in (self.module.parameters() if self.only is None else [self.only])}
        return {name: p for name, p in self.model.named_parameters() if id(p) in ours}

    def tied(self, tensors: list[torch.Tensor]) -> str:
        """Says which of these are used elsewhere in the model too."""
        ids, inside = {id(t) for t in tensors}, {id(m) for m in self.module.modules()}
        outside = [
            dotted(name, own)
            for name, module in self.model.named_modules()
            if id(module) not in inside
            for own, p in module._parameters.items()
            if id(p) in ids
        ]
        return f"tied, and changed with it: {some(outside)}" if outside else ""

    def compiled(self) -> str:
        """Says what a change of code paths costs a compiled model."""
        return "the compiled model is compiled anew at the next step." if self.is_compiled else ""


def _is_compiled(adapter: Adapter, model: nn.Module) -> bool:
    """In place (`model.compile()`), or in the wrapper that transformers' `torch_compile` puts around it."""
    arguments = getattr(getattr(adapter, "trainer", None), "args", None)
    wrapped = adapter.model() is not model or bool(getattr(arguments, "torch_compile", False))
    return wrapped or any(getattr(m, "_compiled_call_impl", None) is not None for m in model.modules())


def find_layer(adapter: Adapter, name: str, takes_parameter: bool = False) -> Layer:
    """The layer of that name; empty: the model itself.

    Args:
        adapter: The loop that owns the model.
        name: Dotted path from the model.
        takes_parameter: Whether the name may be that of a parameter of the model's own, which lies in no layer.

    Raises:
        UserError: There is none; lists what there is.
    """
    model = bare_model(adapter)
    names = {layer: layer_name for layer_name, layer in model.named_modules()}
    known = dict(model.named_modules(remove_duplicate=False))
    if name not in known:
        owner, _, last = name.rpartition(".")
        bare = model._parameters.get(name)
        if bare is not None:
            if takes_parameter:
                return Layer(model, name, model, None, _is_compiled(adapter, model), bare)
            raise UserError(
                f"{name!r} is a parameter of the model itself, in none of its layers: requires_grad_ takes it by this "
                "name; to write it, name the model ('') and it as its parameter",
                field="layer_name",
                allowed=[""],
            )
        if owner in known and last in offered_tensors(known[owner]):
            raise UserError(
                f"{name!r} is a tensor of layer {owner!r}, no layer; name the layer, and {last!r} as its parameter",
                field="layer_name",
                allowed=[owner],
            )
        raise unknown("layer", name, names.values(), "layer_name")
    layer = known[name]
    canonical = names[layer]  # a layer used twice goes by its first name
    parent = model.get_submodule(canonical.rpartition(".")[0]) if canonical else None
    return Layer(model, canonical, layer, parent, _is_compiled(adapter, model))
