"""State of a model that its own files or its state dict leave out: saved beside them, so that every checkpoint loads.

Models write what their users need: adapters without the model below them, weights under other names, quantized, without
a buffer. To go back, a run needs every value that training changes. Weights that are not trained and that the model
does not write stay where they are, in the model; a sum over their bits tells whether they are still the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import nn

from agenttune.errors import UserError
from agenttune.trainer.checkpoints import generators

REST = "agenttune_model.pt"
WEIGHTS = "model.safetensors"
OLD_WEIGHTS = "pytorch_model.bin"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a whole model, in one or in shards; none where it wrote something else."""
    for index in (f"{WEIGHTS}.index.json", f"{OLD_WEIGHTS}.index.json"):
        if (folder / index).is_file():
            names = json.loads((folder / index).read_text())["weight_map"].values()
            return [folder / name for name in dict.fromkeys(names)]
    found = [folder / name for name in (WEIGHTS, OLD_WEIGHTS) if (folder / name).is_file()]
    return found[:1]


def frozen_names(model: nn.Module) -> frozenset[str]:
    """Parameters that are not trained."""
    return frozenset(name for name, p in model.named_parameters(remove_duplicate=False) if not p.requires_grad)


def buffer_names(model: nn.Module) -> frozenset[str]:
    """Buffers of the model."""
    return frozenset(name for name, _ in model.named_buffers(remove_duplicate=False))


def write_rest(folder: Path, state: Mapping[str, Any], frozen: frozenset[str]) -> tuple[dict[str, int], list[str]]:
    """Write the part of a state dict that the model's own files lack, or hold with another value.

    Args:
        folder: Where the model has been written.
        state: The model's state dict.
        frozen: From `frozen_names`.

    Returns:
        The bits' sums of what is written nowhere because it is not trained; and the names in the model's own files
        that are not what they seem.
    """
    with torch.no_grad():
        held, other = _compared(folder, state)
    tensors = [state[name] for name in held if isinstance(state[name], torch.Tensor)]
    storages = {(tensor.data_ptr(), tensor.shape) for tensor in tensors if tensor.numel()}
    left_out: dict[str, int] = {}
    rest: dict[str, Any] = {}
    for name, value in state.items():
        if name in held:
            continue
        if isinstance(value, torch.Tensor) and value.numel() and (value.data_ptr(), value.shape) in storages:
            continue  # tied weights are stored once
        if name in frozen and name not in other and type(value.data) is torch.Tensor:
            left_out[name] = bits_sum(value)
        else:
            rest[name] = value.detach() if isinstance(value, torch.Tensor) else value
    (folder / REST).unlink(missing_ok=True)
    if rest:
        torch.save(rest, folder / REST)
    return left_out, sorted(other)


def _compared(folder: Path, state: Mapping[str, Any]) -> tuple[set[str], set[str]]:
    """Names in the model's own files: those that hold the state's values, and the others.

    Compared are types, shapes, and the first, middle and last row: a file that somebody's own code wrote may hold
    averaged or rounded weights under the names of the model's.
    """
    held: set[str] = set()
    other: set[str] = set()
    with ExitStack() as stack:
        for path in weight_files(folder):
            if path.suffix == ".safetensors":
                file = stack.enter_context(safetensors.safe_open(path, framework="pt"))
                same = {name: _is_same_slice(state.get(name), file, name) for name in file.keys()}  # noqa: SIM118
            else:
                found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
                same = {name: _is_same(state.get(name), value) for name, value in found.items()}
            held |= {name for name, is_same in same.items() if is_same}
            other |= {name for name, is_same in same.items() if not is_same}
    return held, other


def _is_same_slice(own: Any, file: Any, name: str) -> bool:
    part = file.get_slice(name)
    shape = tuple(part.get_shape())
    if not isinstance(own, torch.Tensor) or tuple(own.shape) != shape:
        return False
    if not shape:
        return _equal_bits(own, file.get_tensor(name))
    return all(_equal_bits(own[row : row + 1], part[row : row + 1]) for row in _rows(shape))


def _is_same(own: Any, stored: Any) -> bool:
    if not isinstance(own, torch.Tensor) or not isinstance(stored, torch.Tensor):
        return type(own) is type(stored)
    if own.shape != stored.shape:
        return False
    rows = _rows(tuple(own.shape)) if own.dim() else []
    pairs = [(own[row : row + 1], stored[row : row + 1]) for row in rows] if own.dim() else [(own, stored)]
    return all(_equal_bits(*pair) for pair in pairs)


def _rows(shape: tuple[int, ...]) -> list[int]:
    return sorted({0, shape[0] // 2, shape[0] - 1}) if shape[0] else []


def _equal_bits(own: torch.Tensor, stored: torch.Tensor) -> bool:
    return own.dtype == stored.dtype and bits_sum(own) == bits_sum(stored)


def bits_sum(tensor: torch.Tensor) -> int:
    """The sum of a tensor's bytes, eight at a time, whatever the device and the order: any changed value changes it."""
    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    whole = flat.numel() // 8 * 8
    aligned = flat[:whole] if flat.storage_offset() % 8 == 0 else flat[:whole].clone()
    return int(aligned.view(torch.int64).sum()) + int(flat[whole:].sum(dtype=torch.int64))


def changed_since(model: nn.Module, left_out: Mapping[str, int]) -> list[str]:
    """Names of weights that a checkpoint does not hold, and that are no longer what they were when it was saved."""
    own = model.state_dict(keep_vars=True)
    return [name for name, bits in left_out.items() if name not in own or bits_sum(own[name]) != bits]


# -- adapters that a Trainer alone has saved -----------------------------------------------------------------------


def has_adapters(folder: Path) -> bool:
    """Whether a model of peft's has been written there."""
    return any(folder.glob(ADAPTER_CONFIG)) or any(folder.glob(f"*/{ADAPTER_CONFIG}"))


def read_adapters(folder: Path, model: nn.Module) -> dict[str, torch.Tensor]:
    """Adapters under the names that the model's state has for them: peft leaves an adapter's name out in its files.

    Raises:
        UserError: The model has no such adapters, or peft is not installed.
    """
    try:
        from peft import PeftModel
        from peft.utils import get_peft_model_state_dict
    except ImportError:
        raise UserError(
            f"the checkpoint in {folder} holds adapters; `pip install peft` to load them", field="checkpoint_id"
        ) from None
    if not isinstance(model, PeftModel):
        raise UserError(
            f"the checkpoint in {folder} holds adapters, and this run's model has none", field="checkpoint_id"
        )
    names = {(t.data_ptr(), t.shape): name for name, t in model.state_dict(keep_vars=True).items()}
    found: dict[str, torch.Tensor] = {}
    for adapter in model.peft_config:
        place = folder if adapter == "default" else folder / adapter
        own = get_peft_model_state_dict(model, adapter_name=adapter, save_embedding_layers=False)
        for key, tensor in _load_adapter(place).items():
            live = own.get(key)
            name = names.get((live.data_ptr(), live.shape)) if live is not None else None
            found[name or key] = tensor
    return found


def _load_adapter(place: Path) -> dict[str, torch.Tensor]:
    path = next((place / name for name in ADAPTERS if (place / name).is_file()), None)
    if path is None:
        raise UserError(f"the checkpoint has no {ADAPTERS[0]} in {place}", field="checkpoint_id")
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return dict(load_file(path))
    return dict(torch.load(path, map_location="cpu", weights_only=True))


MOST_BYTES = 256 * 2**20
"""Of such buffers; what is beyond stays as it is, and the ack says so (guess: masks and tables are far smaller)."""


def unsaved_buffers(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Buffers that the model's state dict leaves out."""
    for name, module in model.named_modules():
        for key in sorted(module._non_persistent_buffers_set):
            buffer = module._buffers.get(key)
            if buffer is not None:
                yield (f"{name}.{key}" if name else key), buffer


def model_extra(model: nn.Module) -> dict[str, Any]:
    """Copies of the model's unsaved buffers (each of its own shape) and of its generators' states."""
    left = MOST_BYTES
    buffers: dict[str, torch.Tensor] = {}
    for name, buffer in unsaved_buffers(model):
        left -= buffer.numel() * buffer.element_size()
        if left >= 0:
            buffers[name] = buffer.detach().clone()
    return {"buffers": buffers, "generators": generators.read(generators.find_in_model(model))}


def restore_model_extra(model: nn.Module, extra: Mapping[str, Any]) -> None:
    """Restore them, as far as the state has them."""
    saved = extra.get("buffers", {})
    with torch.no_grad():
        for name, buffer in unsaved_buffers(model):
            if name in saved and saved[name].shape == buffer.shape:
                buffer.copy_(saved[name])
    generators.restore(generators.find_in_model(model), extra.get("generators", {}))


def lost(model: nn.Module, extra: Mapping[str, Any]) -> list[str]:
    """Names of buffers and generators that a state does not have, so that they stay as they are."""
    saved = extra.get("buffers", {})
    names = [f"buffer {n}" for n, b in unsaved_buffers(model) if n not in saved or saved[n].shape != b.shape]
    known = extra.get("generators", {})
    return names + [f"generator {n}" for n in generators.find_in_model(model) if n not in known]
