"""A training state as a folder of files, under the names that transformers uses, so that its Trainer can resume too.

A folder is built aside and renamed: one that has its name is complete. `agenttune.json` holds what no other file
does; a folder without it was written by a Trainer of its own accord, and is read as far as its files go.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save_file

from agenttune.errors import SystemFault, UserError
from agenttune.trainer.checkpoints.manifest import LOOP_STATE, MANIFEST, Manifest, damaged, read_manifest
from agenttune.trainer.checkpoints.rank_parts import RANKS, take_part, write_parts
from agenttune.trainer.checkpoints.shard_files import (
    has_shards_of,
    read_shards,
    shard_shapes,
    without_shards,
)
from agenttune.trainer.checkpoints.training_state import TrainingState, check_model
from agenttune.trainer.checkpoints.unsaved_weights import (
    ADAPTER_CONFIG,
    OLD_WEIGHTS,
    REST,
    WEIGHTS,
    changed_since,
    frozen_names,
    has_adapters,
    read_adapters,
    weight_files,
    write_rest,
)
from agenttune.trainer.distributed.shards import is_sharded

EXTRA = "agenttune_extra.pt"
"""What of `TrainingState.extra` there is."""
PARTS = ("scheduler", "scaler")
"""What else has a state dict, in a file each."""

WriteModel = Callable[[Path], None]


def write_state(folder: Path, state: TrainingState, branch: str, write_model: WriteModel) -> int:
    """Write a state into a new folder; returns its size in bytes.

    Args:
        folder: Does not exist yet.
        state: May hold references to live tensors.
        branch: The branch that it is a step of.
        write_model: Writes the model's files into a folder.

    Raises:
        SystemFault: The disk did not take it; nothing is left of the try.
        UserError: It could not be loaded again, and was not kept.
    """
    aside = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        with _removed_on_error(aside):
            aside.mkdir(parents=True)
            if state.write_shards is None:
                write_model(aside)
            else:
                state.write_shards(aside)
            torch.save(without_shards(state.optimizer), aside / "optimizer.pt")
            for name, part in state.parts.items():
                torch.save(part, aside / f"{name}.pt")
            torch.save(state.rng, aside / "rng_state.pth")
            write_parts(aside, state.ranks)
            if "trainer_state" in state.loop:
                (aside / LOOP_STATE).write_text(json.dumps(state.loop["trainer_state"], indent=2) + "\n")
            write_manifest(aside, state, branch)
            check_readable(aside)
            aside.rename(folder)
    except (
        OSError,
        RuntimeError,
        safetensors.SafetensorError,
    ) as error:  # torch and safetensors have errors of their own
        raise SystemFault(f"the checkpoint could not be written to {folder}: {error}") from error
    return folder_bytes(folder)


@contextlib.contextmanager
def _removed_on_error(folder: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def write_manifest(folder: Path, state: TrainingState, branch: str, run: str = "") -> None:
    """Write what no other file holds; `agenttune.json` is the last file of a checkpoint, whole or not at all."""
    weights = {name: value for name, value in state.model.items() if not is_sharded(value)}
    left_out, other = write_rest(folder, weights, state.frozen)
    torch.save(state.extra, folder / EXTRA)
    # Not itself: a loop that saves a step twice finds the first one's here.
    files = {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file() and path.name != MANIFEST}
    loop = {name: value for name, value in state.loop.items() if name != "trainer_state"}
    manifest = Manifest(
        step=state.step,
        branch=branch,
        run=run,
        loop=loop,
        steered=state.steered,
        files=files,
        left_out=left_out,
        other=other,
    )
    aside = folder / f".{MANIFEST}.{os.getpid()}"
    with aside.open("w", encoding="utf-8") as file:
        file.write(manifest.model_dump_json(indent=2))
        file.flush()
        os.fsync(file.fileno())
    aside.replace(folder / MANIFEST)


def write_plain_model(model: torch.nn.Module, folder: Path) -> None:
    """Weights and buffers of any model; tied tensors are stored once."""
    tensors: dict[str, torch.Tensor] = {}
    seen: set[tuple[int, torch.Size, tuple[int, ...]]] = set()
    state = model.state_dict()
    if any(not isinstance(value, torch.Tensor) for value in state.values()):
        torch.save(state, folder / OLD_WEIGHTS)
        return
    for name, tensor in state.items():
        key = (tensor.data_ptr(), tensor.shape, tensor.stride())
        if tensor.numel() and key in seen:
            continue
        seen.add(key)
        tensors[name] = tensor.contiguous()
    try:
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    except RuntimeError:  # views of one storage, which safetensors refuses
        torch.save(state, folder / OLD_WEIGHTS)


def remove_leftovers(root: Path) -> None:
    """Delete what a process that was killed while it wrote has left behind."""
    for path in root.glob(".*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


# -- reading -------------------------------------------------------------------------------------------------------


def _reason(error: Exception) -> str:
    """In one line; torch's own about objects that it does not read goes on for a page."""
    foreign = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
    if foreign is not None:
        return f"it holds a {foreign[1]}, which is not read from a file, as that would run its code"
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def check_readable(folder: Path) -> None:
    """Refuse a checkpoint that could not be loaded again: what torch reads without running code is all there is.

    Raises:
        UserError: A file is missing, or holds an object of some library's own.
    """
    parts = [folder / f"{name}.pt" for name in PARTS]
    for path in (
        folder / "optimizer.pt",
        *parts,
        folder / "rng_state.pth",
        folder / REST,
        folder / EXTRA,
        folder / RANKS,
    ):
        if path.is_file() or path.name == "optimizer.pt":
            with _reading(folder, f"could not be loaded again, because of {path.name}"):
                _load(path, mmap=True)


def check_fits(folder: Path, model: torch.nn.Module) -> None:
    """Refuse a checkpoint whose weights are not those of this model, without reading them.

    Raises:
        UserError: It is of another model, or weights that it does not hold are no longer what they were.
    """
    manifest = read_manifest(folder)
    left_out = manifest.left_out if manifest is not None else {}
    if not _has_weights(folder):
        adapters = read_adapters(folder, model)
        check_model(model, {name: tuple(t.shape) for name, t in adapters.items()}, frozen_names(model))
        return
    check_model(model, read_shapes(folder), left_out)
    changed = changed_since(model, left_out)
    if changed:
        raise UserError(
            f"the checkpoint in {folder} does not hold weights that were not trained when it was saved, and they have "
            f"changed since: {', '.join(changed[:3])}{' and more' if len(changed) > 3 else ''}",
            field="checkpoint_id",
        )


def read_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights; of safetensors files only their heads are read.

    Raises:
        UserError: They cannot be read.
    """
    manifest = read_manifest(folder)
    with _reading(folder):
        shapes: dict[str, tuple[int, ...]] = {}
        for path in weight_files(folder):
            if path.suffix == ".safetensors":
                with safetensors.safe_open(path, framework="pt") as file:
                    shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            else:
                shapes |= _shapes_of(_load(path, mmap=True))
        for name in manifest.other if manifest is not None else ():
            shapes.pop(name, None)
        shapes |= _shapes_of(_load(folder / REST, mmap=True)) if _has(folder, REST) else {}
        return shapes | (shard_shapes(folder) if has_shards_of(folder) else {})


def _shapes_of(tensors: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(t.shape) for name, t in tensors.items() if isinstance(t, torch.Tensor)}


def _has_weights(folder: Path) -> bool:
    """Whether a model's weights are there, and not adapters alone.

    Raises:
        UserError: There is neither.
    """
    if weight_files(folder) or _has(folder, REST) or has_shards_of(folder):
        return True
    if not has_adapters(folder):
        raise UserError(
            f"the checkpoint in {folder} has no {WEIGHTS}, no {OLD_WEIGHTS} and no {ADAPTER_CONFIG}",
            field="checkpoint_id",
        )
    return False


def _read_weights(folder: Path, manifest: Manifest | None, model: torch.nn.Module | None) -> dict[str, Any]:
    if model is not None and not _has_weights(folder):
        return dict(read_adapters(folder, model))
    weights: dict[str, Any] = {}
    for path in weight_files(folder):
        weights |= load_file(path) if path.suffix == ".safetensors" else _load(path)
    for name in manifest.other if manifest is not None else ():
        weights.pop(name, None)
    return weights | (_load(folder / REST) if _has(folder, REST) else {})


def read_state(
    folder: Path,
    model: torch.nn.Module | None = None,
    optimizer: Any = None,
    agree: Callable[[], None] = lambda: None,
) -> TrainingState:
    """Read a whole checkpoint into memory.

    Args:
        folder: The checkpoint's.
        model: What it is for, where that has adapters whose names its files leave out, or is sharded.
        optimizer: The same; of a checkpoint in shards every rank reads its part, at the same time.
        agree: Called before that, when the rest is read; raises where another rank cannot come so far.

    Raises:
        UserError: A file is missing or damaged.
    """
    manifest = read_manifest(folder)
    with _reading(folder):
        weights = _read_weights(folder, manifest, model)
        loop_state = json.loads((folder / LOOP_STATE).read_text()) if (folder / LOOP_STATE).is_file() else None
        parts = {name: _load(folder / f"{name}.pt") for name in PARTS if _has(folder, f"{name}.pt")}
        rng_file = folder / "rng_state.pth"
        state = TrainingState(
            step=manifest.step if manifest is not None else int((loop_state or {}).get("global_step", -1)),
            model=weights,
            optimizer=_load(folder / "optimizer.pt"),
            parts=parts,
            rng=_load(rng_file) if rng_file.is_file() else {},
            loop=dict(manifest.loop) if manifest is not None else {},
            steered=dict(manifest.steered) if manifest is not None else {},
            extra=_load(folder / EXTRA) if _has(folder, EXTRA) else {},
        )
    if loop_state is not None:
        state.loop["trainer_state"] = loop_state
    if _has(folder, RANKS):
        with _reading(folder):
            take_part(state, _load(folder / RANKS))
    if model is not None and has_shards_of(folder):
        agree()
        read_shards(folder, state, model, optimizer)
    if state.step < 0:
        raise damaged(folder, f"it has no {MANIFEST} and no step in {LOOP_STATE}")
    return state


def _has(folder: Path, name: str) -> bool:
    return (folder / name).is_file()


def _load(path: Path, mmap: bool = False) -> Any:
    with torch.serialization.safe_globals(_numpy_globals()):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


def _numpy_globals() -> list[Any]:
    """What numpy's random state is made of; harmless, and not among torch's own safe types."""
    try:
        import numpy as np
    except ImportError:
        return []
    core = getattr(np, "_core", None) or np.core
    return [core.multiarray._reconstruct, np.ndarray, np.dtype, type(np.dtype(np.uint32))]


@contextlib.contextmanager
def _reading(folder: Path, problem: str = "is damaged") -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise damaged(folder, f"{Path(error.filename or '?').name} is missing", problem) from None
    except (
        OSError,
        EOFError,
        RuntimeError,
        ValueError,
        KeyError,
        pickle.UnpicklingError,
        safetensors.SafetensorError,
    ) as error:
        what = _reason(error)
        raise damaged(folder, what, problem) from None
