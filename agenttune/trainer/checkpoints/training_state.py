"""The state that a training loop needs to continue exactly: captured by reference, copied, restored in place.

Tensors are copied into buffers of their own, and back into the tensors that the loop holds, so that a restore costs
what copying the bytes costs. What cannot be restored in place goes through `load_state_dict`.
"""

from __future__ import annotations

import copy
import ctypes
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from agenttune.errors import UserError
from agenttune.protocol.text import some
from agenttune.trainer.distributed.shards import is_sharded, local


class Stateful(Protocol):
    """What optimizers, schedules and scalers share."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


@dataclass
class TrainingState:
    """A training loop's state at the end of a step.

    Attributes:
        step: Completed optimizer steps.
        model: The model's state dict; each tensor has its parameter's shape.
        optimizer: The optimizer's state dict; moments have their parameter's shape, `step` is [] or a number.
        parts: State dicts of what else has one: `scheduler`, `scaler`.
        rng: Random states, see `read_rng`; torch's are uint8 tensors [n_state_bytes].
        loop: What the loop alone understands: its own counters, and where the data stands.
        steered: Values that commands can change and that no state dict holds: settings, knobs, layers, dataset.
        frozen: Parameters of the model that were not trained.
        buffers: Names of the model's buffers.
        ranks: Of a state that is written for all ranks of a run: what each of them has for itself.
        write_shards: Has every rank write its part of model and optimizer into a folder; None where they are whole.
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
    buffers: frozenset[str] = frozenset()
    ranks: list[dict[str, Any]] = field(default_factory=list)
    write_shards: Callable[[Path], None] | None = None

    def copied(self, buffers: TrainingState | None = None, device: torch.device | None = None) -> TrainingState:
        """A copy that training does not change.

        Args:
            buffers: An old copy that is no longer needed; its tensors are written over where they fit.
            device: Where the copies of the model's and the optimizer's tensors lie; None: where these are.
        """
        return TrainingState(
            step=self.step,
            model=_copied(self.model, buffers.model if buffers else None, device),
            optimizer=_copied(self.optimizer, buffers.optimizer if buffers else None, device),
            parts=_deeply(self.parts),
            rng=dict(self.rng),  # read as copies: nothing writes to them
            loop=_copied(self.loop, None),
            steered=_deeply(self.steered),
            frozen=self.frozen,
            buffers=self.buffers,
            extra=_deeply(self.extra),
        )

    @property
    def tensor_bytes(self) -> int:
        """Size of the tensors of model and optimizer, as far as this rank has them."""
        return sum(t.numel() * t.element_size() for t in map(local, _tensors([self.model, self.optimizer])))


def _tensors(tree: Any) -> list[torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        return [tree]
    inside = tree.values() if isinstance(tree, Mapping) else tree if isinstance(tree, (list, tuple)) else ()
    return [tensor for item in inside for tensor in _tensors(item)]


def _deeply(tree: Any) -> Any:
    """As `deepcopy` has it, in a fraction of the time where it is plain numbers in plain containers."""
    if type(tree) in PLAIN:
        return tree
    if type(tree) is dict:
        return {key: _deeply(value) for key, value in tree.items()}
    if type(tree) is tuple:
        return _copied_tuple(tree, _deeply)
    return [_deeply(value) for value in tree] if type(tree) is list else copy.deepcopy(tree)


def _copied_tuple(tree: tuple[Any, ...], copied: Callable[[Any], Any]) -> tuple[Any, ...]:
    """Python's generator has one of 625 numbers, which `deepcopy` would go through one by one."""
    return tree if set(map(type, tree)) <= PLAIN else tuple(map(copied, tree))


def _copied(tree: Any, old: Any, device: torch.device | None = None) -> Any:
    """A deep copy of nested containers; tensors go into those of `old` where shape, type and device agree."""
    if isinstance(tree, UNCHANGED):
        return tree
    if isinstance(tree, torch.Tensor):
        place = tree.device if device is None else device
        if type(old) is type(tree) and _fits(old, tree, place):
            old.copy_(tree)
            return old
        return tree.detach().clone() if tree.device == place else tree.detach().to(place, copy=True)
    if isinstance(tree, Mapping):
        known = old if isinstance(old, Mapping) else {}
        return {key: _copied(value, known.get(key), device) for key, value in tree.items()}
    if isinstance(tree, list):
        known_list = old if isinstance(old, list) and len(old) == len(tree) else [None] * len(tree)
        return [_copied(value, other, device) for value, other in zip(tree, known_list, strict=True)]
    if type(tree) is tuple:
        return _copied_tuple(tree, lambda value: _copied(value, None, device))
    return copy.deepcopy(tree)


class LogRows(list[Any]):
    """Rows that nobody changes once they are written: copies of a state share them, however long the run has been."""

    def __reduce__(self) -> tuple[type[list[Any]], tuple[list[Any]]]:
        return list, (list(self),)


PLAIN = {int, float, bool, str, bytes, type(None)}
UNCHANGED = (*PLAIN, LogRows)
"""Types of what a copy shares."""


def _fits(old: torch.Tensor, new: torch.Tensor, place: torch.device) -> bool:
    return old.shape == new.shape and old.dtype == new.dtype and old.device == place


def restore_model(model: nn.Module, saved: Mapping[str, Any]) -> None:
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


def restore_optimizer(optimizer: Any, saved: Mapping[str, Any]) -> None:
    """Restore an optimizer's state, in place where its tensors have the shapes of the saved ones."""
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
    """Read back a restored state; returns the names of what differs from what was saved."""
    wrong = weights_not_as_saved(model, saved)
    groups = zip(optimizer.param_groups, saved.optimizer["param_groups"], strict=True)
    for i, (group, entry) in enumerate(groups):
        wrong += [f"{name} of group {i}" for name in ("lr", "weight_decay") if not _same_number(group, entry, name)]
    return wrong


def weights_not_as_saved(model: nn.Module, saved: TrainingState) -> list[str]:
    """Names of weights and buffers that differ from what was saved."""
    own = model.state_dict()
    return [n for n, t in saved.model.items() if n in own and isinstance(t, torch.Tensor) and not _equal(own[n], t)]


def _equal(own: torch.Tensor, saved: torch.Tensor) -> bool:
    own, saved = local(own), local(saved)  # of sharded ones, each rank looks at its part
    saved = saved.to(own.device)
    return torch.equal(own, saved) or bool(((own == saved) | ((own != own) & (saved != saved))).all())


def _same_number(group: Mapping[str, Any], entry: Mapping[str, Any], name: str) -> bool:
    if entry.get(name) is None:
        return True
    return group.get(name) is not None and float(group[name]) == float(entry[name])


class Spare:
    """Buffers for the next snapshot in memory, made ready in the background.

    Fresh pages cost more than the copy itself (measured: two thirds of a first snapshot's time), so after each
    snapshot in memory a thread touches as many for the next one.
    """

    def __init__(self) -> None:
        self._buffers: TrainingState | None = None
        self._thread: threading.Thread | None = None
        self.size_bytes = 0

    def prepare(self, like: TrainingState) -> None:
        """Begin to make buffers ready, of the size of `like`; not of tensors on accelerators or of several ranks."""
        tensors: list[torch.Tensor] = []
        self._buffers = TrainingState(0, _emptied(like.model, tensors), _emptied(like.optimizer, tensors))
        self.size_bytes = sum(t.numel() * t.element_size() for t in tensors)
        self._thread = threading.Thread(target=_touch, args=(tensors,), name="agenttune-spare", daemon=True)
        self._thread.start()

    def take(self) -> TrainingState | None:
        """The buffers, or None; the caller owns them."""
        if self._thread is not None:
            self._thread.join()
        buffers, self._buffers, self._thread, self.size_bytes = self._buffers, None, None, 0
        return buffers


def _emptied(tree: Any, tensors: list[torch.Tensor]) -> Any:
    """The tree's containers with buffers for its tensors, which are added to `tensors`, and nothing else."""
    if isinstance(tree, torch.Tensor):
        if is_sharded(tree) or tree.device.type != "cpu" or tree.layout != torch.strided:
            return None
        tensors.append(torch.empty_like(tree, requires_grad=False))
        return tensors[-1]
    if isinstance(tree, Mapping):
        return {key: _emptied(value, tensors) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_emptied(value, tensors) for value in tree]
    return None


def _touch(tensors: list[torch.Tensor]) -> None:
    for tensor in tensors:
        # Not `zero_()`: in a new thread torch would start a second pool of threads for it.
        ctypes.memset(tensor.data_ptr(), 0, tensor.untyped_storage().nbytes())
