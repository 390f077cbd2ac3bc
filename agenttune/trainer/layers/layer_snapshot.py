"""A copy of one layer, so that an operation that fails has changed nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn


class LayerSnapshot:
    """All that an operation could change about a layer: values, objects, flags, plain attributes.

    Holds a copy of the layer's tensors, so it costs their memory for as long as it lives.
    """

    def __init__(self, layer: nn.Module) -> None:
        self.modules = list(layer.modules())
        self._slots = [(m, dict(m._parameters), dict(m._buffers), _plain(m)) for m in self.modules]
        tensors = [t for _, ps, bs, _ in self._slots for t in (*ps.values(), *bs.values()) if t is not None]
        self.values = {t: t.detach().clone() for t in dict.fromkeys(tensors)}
        self.flags = {t: t.requires_grad for t in self.values if isinstance(t, nn.Parameter)}

    def restore(self) -> None:
        """Restore everything."""
        with torch.no_grad():
            for module, parameters, buffers, plain in self._slots:
                _refill(module._parameters, parameters)
                _refill(module._buffers, buffers)
                for name, value in plain.items():
                    setattr(module, name, value)
            for tensor, value in self.values.items():
                tensor.copy_(value)
            for parameter, flag in self.flags.items():
                parameter.requires_grad_(flag)

    def restore_only(self, tensors: list[torch.Tensor]) -> None:
        """Restore the values of some tensors."""
        with torch.no_grad():
            for tensor in tensors:
                tensor.copy_(self.values[tensor])

    def changed_tensors(self) -> list[torch.Tensor]:
        """Tensors that hold other values now."""
        return [t for t, value in self.values.items() if not torch.equal(t.detach(), value)]

    def changed_attributes(self) -> Iterator[tuple[nn.Module, str, Any]]:
        """Plain attributes with another value now: module, name and the value before."""
        for module, _, _, plain in self._slots:
            now = _plain(module)
            for name, value in plain.items():
                if now.get(name) != value:
                    yield module, name, value

    def was_rebuilt(self) -> bool:
        """Whether layers or tensors were replaced by new objects, which the optimizer would not train."""
        same_modules = list(self.modules[0].modules()) == self.modules
        return not same_modules or any(
            _ids(m._parameters) != _ids(parameters) or _ids(m._buffers) != _ids(buffers)
            for m, parameters, buffers, _ in self._slots
        )


def _refill(slot: dict[str, Any], values: dict[str, Any]) -> None:
    slot.clear()
    slot.update(values)


def _ids(tensors: dict[str, Any]) -> dict[str, int]:
    return {name: id(tensor) for name, tensor in tensors.items()}


def _plain(module: nn.Module) -> dict[str, Any]:
    return {k: v for k, v in vars(module).items() if not k.startswith("_") and type(v) in (bool, int, float, str)}
