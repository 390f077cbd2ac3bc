"""What of a training state belongs to one rank alone: random states, its place in its data, its buffers.

Weights and optimizer are alike on all ranks (or are written in shards), so a checkpoint on disk has them once, and this
once a rank, in one file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from agenttune.trainer.checkpoints.training_state import TrainingState
from agenttune.trainer.checkpoints.unsaved_weights import MOST_BYTES

RANKS = "agenttune_ranks.pt"
"""A list with a part for each rank."""
SHARED = "trainer_state"
"""Of what the loop alone understands: alike on all ranks."""


def part_of(state: TrainingState) -> dict[str, Any]:
    """The part of the rank whose state this is."""
    loop = {name: value for name, value in state.loop.items() if name != SHARED}
    return {"rng": state.rng, "loop": loop, "extra": state.extra, "buffers": _buffers(state)}


def _buffers(state: TrainingState) -> dict[str, torch.Tensor]:
    """Statistics of normalization and the like, which each rank may have of its own data; copies."""
    held = {
        name: state.model[name]
        for name in state.buffers
        if isinstance(state.model.get(name), torch.Tensor) and not hasattr(state.model[name], "to_local")
    }
    size = sum(tensor.numel() * tensor.element_size() for tensor in held.values())
    return {name: t.detach().cpu().clone() for name, t in held.items()} if size <= MOST_BYTES else {}


def write_parts(folder: Path, parts: list[dict[str, Any]]) -> None:
    """Write the parts of all ranks; nothing where there is one rank."""
    if parts:
        torch.save(parts, folder / RANKS)


def take_part(state: TrainingState, parts: list[dict[str, Any]]) -> None:
    """Complete a state that was read with what belongs to this rank.

    In a run of more or fewer ranks than the one that wrote it, nobody's random states fit; they are left as they are.
    """
    rank, size = _rank_and_size()
    if len(parts) != size:
        state.rng = {}
        return
    mine = parts[rank]
    state.rng, state.extra = mine["rng"], mine["extra"]
    state.loop = {**state.loop, **mine["loop"]}
    state.model.update(mine["buffers"])


def _rank_and_size() -> tuple[int, int]:
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()
