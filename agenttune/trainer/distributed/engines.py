"""How a model is spread over processes, and what cannot be done safely there.

A command that an engine lacks is no capability of a run under it, and is refused with the reason that stands here.
`docs/engines.md` is made from this.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from agenttune.trainer.distributed.processes import is_distributed
from agenttune.trainer.distributed.shards import is_sharded


@dataclass(frozen=True)
class Engine:
    """One way to spread a model.

    Attributes:
        name: For people.
        state: Why the training state cannot be captured and restored; empty if it can.
        limits: What else does not work, in words.
        tested: How far it was tried.
    """

    name: str
    state: str = ""
    limits: tuple[str, ...] = field(default=())
    tested: str = "not tried"


_SHARDED = (
    "weights can be read, with norms, and reset; freezing layers, writing tensors and operations of your own cannot"
)

ENGINES: dict[str, Engine] = {
    "plain": Engine("one process", tested="all tests"),
    "ddp": Engine(
        "DDP",
        limits=("freezing a layer needs find_unused_parameters=True",),
        tested="two gloo processes: raw loop (four too), transformers' Trainer, Lightning",
    ),
    "fsdp2": Engine(
        "FSDP2 (fully_shard) in a loop of your own", limits=(_SHARDED,), tested="two and four gloo processes, raw loop"
    ),
    "fsdp2_trainer": Engine(
        "FSDP through accelerate or Lightning",
        state="the loop saves sharded weights in a way of its own, and going back beside that was not tried",
        limits=(_SHARDED,),
    ),
    "fsdp1": Engine(
        "FSDP 1 (FullyShardedDataParallel)",
        state="FSDP 1 keeps weights as flat pieces without names; use fully_shard",
        limits=("layers cannot be written or reset",),
    ),
    "zero_redundancy": Engine(
        "torch's ZeroRedundancyOptimizer",
        state="each rank knows a part of the optimizer's state only, which would have to be gathered first",
    ),
    "deepspeed": Engine(
        "DeepSpeed ZeRO 1 and 2",
        state="DeepSpeed keeps copies of the weights of its own, which a restore would not reach",
        limits=("layers written by command are overwritten by DeepSpeed's own copies, so they are refused",),
    ),
    "deepspeed3": Engine(
        "DeepSpeed ZeRO 3",
        state="DeepSpeed keeps the weights in pieces of its own, which a restore would not reach",
        limits=("layers cannot be written or reset",),
    ),
    "other": Engine(
        "tensor and pipeline parallel engines, XLA",
        state="it is not known what of the state each rank has",
    ),
}


def bare(model: nn.Module) -> nn.Module:
    """The model out of DDP's wrapper."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def engine_of(model: nn.Module | None, optimizer: object = None) -> str:
    """The engine's key, as model and optimizer tell it."""
    if type(optimizer).__name__ == "ZeroRedundancyOptimizer":
        return "zero_redundancy"
    parameters = list(model.parameters()) if model is not None else []
    if any(hasattr(p, "ds_id") for p in parameters):
        return "deepspeed3"
    if type(optimizer).__module__.startswith("deepspeed"):
        return "deepspeed"
    if any(is_sharded(p) for p in parameters):
        return "fsdp2"
    if any(type(p).__name__ == "FlatParameter" or getattr(p, "_fsdp_flattened", False) for p in parameters):
        return "fsdp1"
    return "ddp" if is_distributed() else "plain"


_OF_ACCELERATE = {"FSDP": "fsdp2_trainer", "DEEPSPEED": "deepspeed", "MEGATRON_LM": "other", "XLA": "other"}


def engine_of_trainer(trainer: Any) -> str:
    """The engine of a transformers Trainer, as accelerate calls it."""
    kind = str(getattr(trainer.accelerator, "distributed_type", "")).rpartition(".")[2]
    if kind == "DEEPSPEED":
        plugin = getattr(trainer.accelerator.state, "deepspeed_plugin", None)
        return "deepspeed3" if getattr(plugin, "zero_stage", 0) == 3 else "deepspeed"
    found = _OF_ACCELERATE.get(kind) or engine_of(trainer.model, getattr(trainer, "optimizer", None))
    return "fsdp2_trainer" if found == "fsdp2" else found


def engine_of_strategy(strategy: object, model: nn.Module) -> str:
    """The engine of a Lightning Trainer, by its strategy's class."""
    name = type(strategy).__name__
    if "DeepSpeed" in name:
        return "deepspeed3" if getattr(strategy, "zero_stage_3", False) else "deepspeed"
    if "FSDP" in name:
        return "fsdp2_trainer"
    if "ModelParallel" in name or "XLA" in name:
        return "other"
    return engine_of(model)


def state_refusal(engine: str) -> str:
    """Why the state cannot be captured and restored under an engine; empty if it can."""
    known = ENGINES[engine]
    return f"under {known.name}: {known.state}" if known.state else ""


def joins_unevenly(model: nn.Module | None) -> bool:
    """Whether a model under DDP is, or was, within its `join()`: torch does not tell when it is over."""
    config = getattr(model, "_join_config", None)
    return config is not None and bool(config.enable)
