"""All that a training loop has to get back to stand where it stood: taken by reference, copied, put back.

Tensors are copied into buffers of their own, and back into the very tensors that the loop holds, so that a return
costs what copying the bytes costs. What cannot be put back in place goes through `load_state_dict`.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn

from agenttune.errors import UserError

MISSING_SHOWN = 5


class Stateful(Protocol):
    """What optimizers, schedules and scalers share."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


@dataclass
class TrainingState:
    """A training loop's state at the end of a step.

    Attributes:
        step: Completed optimizer steps.
        model: The model's state dict.
        optimizer: The optimizer's state dict.
        parts: State dicts of what else has one: `scheduler`, `scaler`.
        rng: Random states, see `read_rng`.
        loop: What the loop alone understands: its own counters, and where the data stands.
        steered: Values that commands can change and that no state dict holds: settings, knobs, layers, dataset.
        frozen: Parameters of the model that were not trained.
        extra: What neither of these holds: `draws` of the data, `generators` and `buffers` of the model, `registered`
            states of the user's.
    """

    step: int
    model: dict[str, Any]
    optimizer: dict[str, Any]
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)
    rng: dict[str, Any] = field(default_factory=dict)
    loop: dict[str, Any] = field(default_factory=dict)
    steered: dict[str, Any] = field(default_factory=dict)
    frozen: frozenset[str] = frozenset()
    extra: dict[str, Any] = field(default_factory=dict)

    def copied(self, buffers: TrainingState | None = None) -> TrainingState:
        """A copy that training does not change.

        Args:
            buffers: An old copy that is no longer needed; its tensors are written over where they fit.
        """
        return TrainingState(
            step=self.step,
            model=_copied(self.model, buffers.model if buffers else None),
            optimizer=_copied(self.optimizer, buffers.optimizer if buffers else None),
            parts=copy.deepcopy(self.parts),
            rng=copy.deepcopy(self.rng),
            loop=_copied(self.loop, None),
            steered=copy.deepcopy(self.steered),
            frozen=self.frozen,
            extra=copy.deepcopy(self.extra),
        )

    @property
    def tensor_bytes(self) -> int:
        """Size of the tensors of model and optimizer."""
        return sum(t.numel() * t.element_size() for t in _tensors([self.model, self.optimizer]))


def _tensors(tree: Any) -> list[torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        return [tree]
    inside = tree.values() if isinstance(tree, Mapping) else tree if isinstance(tree, (list, tuple)) else ()
    return [tensor for item in inside for tensor in _tensors(item)]


def _copied(tree: Any, old: Any) -> Any:
    """A deep copy of nested containers; tensors go into those of `old` where shape, type and device agree."""
    if isinstance(tree, torch.Tensor):
        if type(old) is type(tree) and _fits(old, tree):
            old.copy_(tree)
            return old
        return tree.detach().clone()
    if isinstance(tree, Mapping):
        known = old if isinstance(old, Mapping) else {}
        return {key: _copied(value, known.get(key)) for key, value in tree.items()}
    if isinstance(tree, list):
        known_list = old if isinstance(old, list) and len(old) == len(tree) else [None] * len(tree)
        return [_copied(value, other) for value, other in zip(tree, known_list, strict=True)]
    if isinstance(tree, (int, float, str, bytes, type(None))):
        return tree
    return copy.deepcopy(tree)


def _fits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.device == b.device


def put_model(model: nn.Module, saved: Mapping[str, Any]) -> None:
    """Write saved weights and buffers into the model's own tensors; `check_model` comes first."""
    with torch.no_grad():
        for name, tensor in model.state_dict(keep_vars=True).items():
            if name in saved and isinstance(tensor, torch.Tensor):
                tensor.copy_(saved[name])
    extra = {name: value for name, value in saved.items() if not isinstance(value, torch.Tensor)}
    if extra:  # modules with a state of their own beside tensors
        model.load_state_dict(extra, strict=False)


def check_model(
    model: nn.Module, shapes: Mapping[str, tuple[int, ...]], left_out: Collection[str] = frozenset()
) -> None:
    """Refuse the weights of another model.

    Args:
        model: This run's.
        shapes: Of the weights that a checkpoint holds.
        left_out: Names of those that it need not hold.

    Raises:
        UserError: A tensor is missing, unknown or of another shape; names the first few.
    """
    own = {name: t for name, t in model.state_dict(keep_vars=True).items() if isinstance(t, torch.Tensor)}
    storages = {own[name].data_ptr() for name in shapes if name in own}
    # Tied weights are stored once.
    missing = [n for n, t in own.items() if n not in shapes and n not in left_out and t.data_ptr() not in storages]
    unknown = [name for name in shapes if name not in own]
    other = [name for name, shape in shapes.items() if name in own and tuple(own[name].shape) != tuple(shape)]
    problems = [("lacks", missing), ("has unknown", unknown), ("has other shapes for", other)]
    said = [f"{what} {some(names)}" for what, names in problems if names]
    if said:
        raise UserError(f"it is a checkpoint of another model: it {', '.join(said)}", field="checkpoint_id")


def some(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - MISSING_SHOWN} more" if len(names) > MISSING_SHOWN else ""
    return ", ".join(names[:MISSING_SHOWN]) + more


def check_optimizer(optimizer: Stateful, saved: Mapping[str, Any]) -> None:
    """Refuse the state of an optimizer over other parameters.

    Raises:
        UserError: The groups differ in number or size.
    """
    groups = optimizer.state_dict()["param_groups"]
    own = [len(group["params"]) for group in groups]
    theirs = [len(group["params"]) for group in saved.get("param_groups", [])]
    if own != theirs:
        raise UserError(
            f"its optimizer has parameter groups of {theirs} parameters, this run's has {own}", field="checkpoint_id"
        )
    mine, others = (set(g[0]) - {"params"} if g else set() for g in (groups, saved.get("param_groups", [])))
    if not mine >= others - {"initial_lr"}:
        raise UserError(
            f"its optimizer has the hyperparameters {sorted(others)}, this run's has {sorted(mine)}",
            field="checkpoint_id",
        )


def put_optimizer(optimizer: Any, saved: Mapping[str, Any]) -> None:
    """Put an optimizer's state back, in place where its tensors agree with the saved ones."""
    own = optimizer.state_dict()
    if not _same_layout(own["state"], saved["state"]):
        # `load_state_dict` takes tensors over as they are, and training would change the saved ones.
        optimizer.load_state_dict(_copied(saved, None))
        return
    with torch.no_grad():
        for key, entry in saved["state"].items():
            _put_entries(own["state"][key], entry)
        for group, entry in zip(optimizer.param_groups, saved["param_groups"], strict=True):
            _put_entries(group, {name: value for name, value in entry.items() if name != "params"})


def _same_layout(own: Mapping[Any, Any], saved: Mapping[Any, Any]) -> bool:
    if own.keys() != saved.keys():
        return False
    for key, entry in own.items():
        other = saved[key]
        if not isinstance(entry, dict) or entry.keys() != other.keys():
            return False
        for name, value in entry.items():
            if isinstance(value, torch.Tensor) and (
                not isinstance(other[name], torch.Tensor) or value.shape != other[name].shape
            ):
                return False
    return True


def _put_entries(own: dict[Any, Any], saved: Mapping[Any, Any]) -> None:
    for name, value in saved.items():
        current = own.get(name)
        if isinstance(current, torch.Tensor) and isinstance(value, torch.Tensor) and current.shape == value.shape:
            current.copy_(value)
        else:
            own[name] = _copied(value, None)


def not_as_saved(model: nn.Module, optimizer: Any, saved: TrainingState) -> list[str]:
    """Read back, after a state was put: names of what does not stand as saved, none if all does."""
    own = model.state_dict()
    wrong = [n for n, t in saved.model.items() if n in own and isinstance(t, torch.Tensor) and not _equal(own[n], t)]
    groups = zip(optimizer.param_groups, saved.optimizer["param_groups"], strict=True)
    for i, (group, entry) in enumerate(groups):
        wrong += [f"{name} of group {i}" for name in ("lr", "weight_decay") if not _same_number(group, entry, name)]
    return wrong


def _equal(own: torch.Tensor, saved: torch.Tensor) -> bool:
    saved = saved.to(own.device)
    return torch.equal(own, saved) or bool(((own == saved) | ((own != own) & (saved != saved))).all())


def _same_number(group: Mapping[str, Any], entry: Mapping[str, Any], name: str) -> bool:
    if entry.get(name) is None:
        return True
    return group.get(name) is not None and float(group[name]) == float(entry[name])


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


def put_rng(states: Mapping[str, Any]) -> None:
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
