"""What commands have changed about layers, with the original values: attributes and what is trained.

Weights and buffers are not kept here; they are in the model's own state.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from agenttune.errors import UserError
from agenttune.protocol.proposals import Change
from agenttune.trainer.adapter import Adapter

Key = tuple[str, str]
"""A layer's name and one of its attributes; a parameter's full name and `requires_grad`."""
FLAG = "requires_grad"


def bare_model(adapter: Adapter) -> nn.Module:
    """The model itself, out of `torch.compile`'s wrapper, so that layers have the names they were written with."""
    model = adapter.model()
    inner = model._modules.get("_orig_mod")
    return inner if inner is not None else model


def dotted(layer_name: str, name: str) -> str:
    """A value's full name, such as `transformer.drop.p`."""
    return f"{layer_name}.{name}" if layer_name else name


@dataclass
class LayerChanges:
    """Everything touched about layers in this run, and what it was before.

    Attributes:
        adapter: The loop that owns the model.
        originals: Value before the first change.
    """

    adapter: Adapter
    originals: dict[Key, Any] = field(default_factory=dict)
    _stamps: dict[Key, int] = field(default_factory=dict)
    _weights: dict[int, int] = field(default_factory=dict)
    _writes: int = 0

    def set_attribute(self, layer_name: str, layer: nn.Module, name: str, value: Any) -> None:
        """Write one attribute and remember what it was."""
        self.note((layer_name, name), vars(layer)[name])
        setattr(layer, name, value)

    def set_flag(self, name: str, parameter: nn.Parameter, value: bool) -> None:
        """Train a parameter or not; a frozen one loses its gradient, or the next update would still use it."""
        self.note((name, FLAG), parameter.requires_grad)
        parameter.requires_grad_(value)
        if not value:
            parameter.grad = None

    def note(self, key: Key, original: Any) -> None:
        """Remember what a value was before it was first changed, and that it has now been changed."""
        self.originals.setdefault(key, original)
        self.stamp(key)

    def stamp(self, key: Key) -> None:
        """Note a write, so that an earlier value is no longer expected there."""
        self._writes += 1
        self._stamps[key] = self._writes

    def stamps(self, keys: list[Key]) -> list[int]:
        """Changes whenever one of these is written again, or anything restored."""
        return [self._stamps.get(key, 0) for key in keys]

    def stamp_weights(self, tensors: list[torch.Tensor]) -> None:
        """Weights were written by a command."""
        for tensor in tensors:
            self._writes += 1
            self._weights[id(tensor)] = self._writes

    def weight_stamps(self, tensors: Sequence[torch.Tensor]) -> list[int]:
        """Changes whenever a command writes one of these."""
        return [self._weights.get(id(tensor), 0) for tensor in tensors]

    def was_trained(self, name: str) -> bool:
        """Whether a parameter was trained before commands changed that."""
        return bool(self.originals.get((name, FLAG), False))

    # -- checkpoints ------------------------------------------------------------------------------------------

    def capture(self) -> dict[str, Any]:
        """The values now of everything touched, as JSON: `{"layer": {"attribute": value}}`."""
        captured: dict[str, Any] = {}
        model = bare_model(self.adapter)
        for name, attribute in self.originals:
            captured.setdefault(name, {})[attribute] = _read(model, (name, attribute))
        return captured

    def differing(self, captured: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[Key, Any, Any]]:
        """What the model has otherwise than it was captured: the key, the value then, the value now.

        What this model does not have is no value of it, and left out.
        """
        model = bare_model(self.adapter)
        for name, values in captured.items():
            for attribute, then in values.items():
                with contextlib.suppress(UserError):
                    now = _read(model, (name, attribute))
                    if now != then:
                        yield (name, attribute), then, now

    def restore(self, captured: dict[str, Any]) -> list[Change]:
        """Restore what was captured; what was changed since then, and is not in it, gets its original value.

        Raises:
            UserError: The model has no such layer or attribute; nothing has changed.
        """
        wanted = dict(self.originals)
        wanted.update({(name, a): value for name, values in captured.items() for a, value in values.items()})
        model = bare_model(self.adapter)
        previous = {key: _read(model, key) for key in wanted}
        for key, value in wanted.items():
            if previous[key] != value:
                self.note(key, previous[key])
                _write(model, key, value)
            self.stamp(key)
        return [
            Change(name=dotted(*key), previous=previous[key], requested=value, effective=_read(model, key))
            for key, value in wanted.items()
            if previous[key] != value
        ]


def _read(model: nn.Module, key: Key) -> Any:
    name, attribute = key
    try:
        if attribute == FLAG:
            return model.get_parameter(name).requires_grad
        return vars(model.get_submodule(name))[attribute]
    except (AttributeError, KeyError):
        raise UserError(
            f"this model has no {dotted(name, attribute)}, which the checkpoint holds a value for"
        ) from None


def _write(model: nn.Module, key: Key, value: Any) -> None:
    name, attribute = key
    if attribute != FLAG:
        setattr(model.get_submodule(name), attribute, value)
        return
    parameter = model.get_parameter(name)
    parameter.requires_grad_(value)
    if not value:
        parameter.grad = None
