"""Weights and optimizer that are spread over ranks, written by all of them with `torch.distributed.checkpoint`.

Each rank writes its part of each tensor, and reads what its own part is made of, so that a run of another number of
ranks can go on from it. What is no tensor of several ranks, such as an optimizer's counts, is in `optimizer.pt`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from agenttune.errors import SystemFault, UserError
from agenttune.trainer.checkpoints.training_state import TrainingState
from agenttune.trainer.distributed.shards import is_sharded

SHARDS = "shards"
"""The folder of them, in a checkpoint's."""
MODEL = "model/"
"""Before the names of weights in there."""


def has_shards_of(folder: Path) -> bool:
    return (folder / SHARDS).is_dir()


def write_shards(folder: Path, state: TrainingState, group: Any = None) -> None:
    """Write what is sharded; every rank has to.

    Raises:
        SystemFault: The disk of a rank did not take it.
    """
    import torch.distributed.checkpoint as dcp  # takes a second to import, and few need it
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        dcp.state_dict_saver.save(
            _tensors(state.model, state.optimizer), checkpoint_id=str(folder / SHARDS), process_group=group
        )
    except CheckpointException as error:
        raise SystemFault(_first(error)) from error


def read_shards(folder: Path, state: TrainingState, model: nn.Module, optimizer: Any, group: Any = None) -> None:
    """Read this rank's part into a state whose whole parts are read; every rank has to.

    Raises:
        UserError: A file is missing or damaged, or it is of another model.
    """
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.api import CheckpointException

    own = {name: t for name, t in model.state_dict().items() if is_sharded(t)}
    if not own:
        raise UserError(
            f"the weights in {folder} are in shards, and this run's model is not sharded; read them with "
            "torch.distributed.checkpoint",
            field="checkpoint_id",
        )
    parameters = [p for g in optimizer.param_groups for p in g["params"]]
    model_parts = {name: torch.empty_like(tensor) for name, tensor in own.items()}
    optimizer_state: dict[Any, Any] = {}
    for index, entry in state.optimizer["state"].items():
        optimizer_state[index] = {
            name: torch.empty_like(parameters[index].detach(), dtype=getattr(torch, value["dtype"]))
            if _is_stand_in(value)
            else value
            for name, value in entry.items()
        }
    wanted = _tensors(model_parts, {"state": optimizer_state})
    try:
        dcp.state_dict_loader.load(wanted, checkpoint_id=str(folder / SHARDS), process_group=group)
    except (CheckpointException, OSError, RuntimeError, ValueError) as error:
        raise UserError(f"the shards in {folder} cannot be read: {_first(error)}", field="checkpoint_id") from None
    state.model |= model_parts
    state.optimizer = {**state.optimizer, "state": optimizer_state}


def shard_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights that are in shards."""
    from torch.distributed.checkpoint.filesystem import FileSystemReader

    found = FileSystemReader(folder / SHARDS).read_metadata().state_dict_metadata
    sizes = {name.removeprefix(MODEL): getattr(meta, "size", ()) for name, meta in found.items() if _is_models(name)}
    return {name: tuple(size) for name, size in sizes.items()}


def _is_models(name: str) -> bool:
    return name.startswith(MODEL)


def without_shards(optimizer: Mapping[str, Any]) -> dict[str, Any]:
    """An optimizer's state with a stand-in for each tensor that is written in shards."""
    entries = {
        index: {name: _stand_in(value) if is_sharded(value) else value for name, value in entry.items()}
        for index, entry in optimizer["state"].items()
    }
    return {**optimizer, "state": entries}


def _stand_in(tensor: Any) -> dict[str, str]:
    return {"shards": SHARDS, "dtype": str(tensor.dtype).removeprefix("torch.")}


def _is_stand_in(value: object) -> bool:
    return isinstance(value, dict) and value.get("shards") == SHARDS


def _tensors(model: Mapping[str, Any], optimizer: Mapping[str, Any]) -> dict[str, Any]:
    """What is sharded, by a name that another number of ranks has too."""
    return dict(_named(model, optimizer))


def _named(model: Mapping[str, Any], optimizer: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    yield from ((f"{MODEL}{name}", tensor) for name, tensor in model.items() if is_sharded(tensor))
    for index, entry in optimizer["state"].items():
        yield from ((f"optimizer/{index}/{name}", value) for name, value in entry.items() if is_sharded(value))


def _first(error: BaseException) -> str:
    """In one line, with the rank where torch tells it."""
    if hasattr(error, "failures"):
        return "; ".join(f"rank {rank}: {cause}" for rank, (cause, _) in error.failures.items())[:400]
    return str(error).splitlines()[0][:400] if str(error) else type(error).__name__
