"""Looks at a few weights of each trained layer every some steps: one small gather a layer, in the training thread.

Which coordinates is settled by the layer's name, so that every run of a model is seen alike and no random generator
of the training is touched. The samples stay on their device; the writer's thread reads them.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from agenttune.trainer.adapter import Adapter
from agenttune.trainer.layers.layer_changes import bare_model, dotted
from agenttune.trainer.layers.model_tree import held_by

LAYER_COORDINATES = 256
"""Of each layer: two ways of chance then have a cosine of at most 0.06 in one standard deviation (1 / sqrt(256))."""
ALL_COORDINATES = 16_384
"""Of all layers together, so that a look at a large model stays small, and a run's looks fit into 20 MB."""
LEAST_COORDINATES = 16
LEAST_STEPS = 5
"""Between two looks, once a stretch is older than twice that (for the cost: see benchmarks/weight_looks.py)."""
RUN_FRAC = 0.01
"""And part of the planned steps."""
STEPS_PER_LAYER = 0.5
"""And steps for each layer: a look at many layers takes longer."""
TABLES = (nn.Embedding, nn.EmbeddingBag)
"""Layers of whose rows a batch trains few: under SGD their updates are a hundredth of the others' (measured)."""
SETTLES_AFTER = {"RMSprop": 100, "Adagrad": 20}
"""Steps of optimizers whose first ones are larger than all that follow, by the root of a few (computed)."""
OPEN_END_FRAC = 0.02
"""Where the end is not known: part of the steps so far."""


class WeightSample(NamedTuple):
    """What a look took, not read yet.

    Attributes:
        stretch: Number of the stretch of training without a change.
        names: Of the layers.
        sizes: Coordinates of each.
        telling: Whether the size of its updates, as a part of its weights, tells of the rate: those of matrices, or of
            gains and biases where no matrix is trained; not of what began at zero, as an adapter's second half,
            which consists of nothing but its first updates, nor of a layer alone, nor, but with Adam's kin, of tables
            beside other layers: a batch trains few of their rows.
        values: Theirs, [sum(sizes)], float32, on the device of the first layer.
        before: What the stretch began with, before its first update; with its first look.
        rates: Of each layer's parameter group; empty: all alike, and not known.
        settled: Size of an update of the optimizer's later steps, as a part of one of now; below 1 in the first steps
            of those that begin with larger ones.
    """

    step: int
    stretch: int
    names: tuple[str, ...]
    sizes: tuple[int, ...]
    telling: tuple[bool, ...]
    values: Tensor
    before: WeightSample | None = None
    rates: tuple[float, ...] = ()
    settled: float = 1.0


@dataclass
class _Place:
    """Where a layer's sampled weights are found."""

    name: str
    module: nn.Module
    parameter: str
    size: int
    index: Tensor


@dataclass
class WeightSampler:
    """Looks at a model's weights.

    Attributes:
        due_step: The step after which the next look is due; another stretch is looked at from its first step.
        stretch: Number of the stretch of training without a change that is looked at; asked before each update, so
            that a new one begins with what its first update finds.
        skipped: Why layers are not looked at, with how many; empty if all are.
    """

    adapter: Adapter
    due_step: int = 0
    skipped: str = ""
    _zeros: frozenset[str] = frozenset()
    stretch: int = -1
    _since_step: int = 0
    _before: WeightSample | None = None
    _places: list[_Place] = field(default_factory=list)
    _indices: dict[tuple[str, int, torch.device], Tensor] = field(default_factory=dict)

    def begin(self, step: int, stretch: int) -> None:
        """A stretch begins: keep what its first update finds, for the first look.

        The first update of a rate that is far too high is the largest: whoever looks after it sees large weights only.
        """
        self.stretch, self._since_step = stretch, step
        self.due_step = step + 1
        self._find_places()
        self._before = self._take(step)

    def look(self, step: int, stretch: int) -> WeightSample | None:
        """Take a sample; None where there is nothing to look at."""
        if stretch != self.stretch:  # changed after its update
            self.begin(step, stretch)
        self.due_step = step + self._pause(step)
        sample = self._take(step)
        before, self._before = self._before, None
        if sample is None or before is None or before.step == step or before.sizes != sample.sizes:
            return sample
        return sample._replace(before=before)

    def _take(self, step: int) -> WeightSample | None:
        present = [(place, weights) for place in self._places if (weights := _weights_at(place)) is not None]
        if not present:
            return None
        device = present[0][0].index.device
        with torch.no_grad():
            taken = [
                torch.take(weights, place.index).to(device, torch.float32, non_blocking=True)
                for place, weights in present
            ]
            values = torch.cat(taken)
        names = tuple(place.name for place, _ in present)
        sizes = tuple(place.index.numel() for place, _ in present)
        rates = self._rates([weights for _, weights in present])
        telling = self._telling(present)
        return WeightSample(step, self.stretch, names, sizes, telling, values, rates=rates, settled=self._settled())

    def _telling(self, present: list[tuple[_Place, Tensor]]) -> tuple[bool, ...]:
        """Of each layer's weights; where all matrices began at zero, nothing tells.

        Nor does one layer alone of a model, as a linear probe: no other learns from what it gives, and its first
        weights are often so small that any rate makes others of them at once. Weights that are all of a model do.
        Tables tell only where nothing else is trained, or with Adam's kin, who make each weight's updates alike.
        """
        if len(present) == 1 and present[0][0].module is not bare_model(self.adapter):
            return (False,)
        fewest = 2 if any(weights.dim() > 1 for _, weights in present) else 0
        tells = [weights.dim() >= fewest and place.name not in self._zeros for place, weights in present]
        if any("eps" in group for group in self.adapter.optimizer().param_groups):
            return tuple(tells)
        dense = [tell and not isinstance(place.module, TABLES) for tell, (place, _) in zip(tells, present, strict=True)]
        return tuple(dense if any(dense) else tells)

    def _settled(self) -> float:
        """RMSprop's average of squares begins at nothing and is not corrected for that, Adagrad's sum only grows."""
        optimizer = self.adapter.optimizer()
        name = type(getattr(optimizer, "optimizer", optimizer)).__name__
        if name not in SETTLES_AFTER:
            return 1.0
        state = next((held for held in optimizer.state.values() if "step" in held), None)
        steps = 1.0 if state is None else max(1.0, float(state["step"]))
        if name == "RMSprop":
            return math.sqrt(1 - float(optimizer.param_groups[0]["alpha"]) ** steps)
        return math.sqrt(min(1.0, steps / SETTLES_AFTER[name]))

    def _rates(self, weights: list[Tensor]) -> tuple[float, ...]:
        """The rate of the parameter group of each."""
        groups = self.adapter.optimizer().param_groups
        if len(groups) < 2:
            return (float(groups[0]["lr"] or 0.0),) * len(weights)
        known = {id(p): float(group["lr"]) for group in groups for p in group["params"]}
        return tuple(known.get(id(one), 0.0) for one in weights)

    def note_zeros(self) -> None:
        """Note which layers begin at zero, before the first step; waits for the device, once."""
        self._find_places()
        sample = self._take(0)
        if sample is None:
            return
        parts = torch.split(sample.values, list(sample.sizes))
        are_zero = torch.stack([(part == 0).all() for part in parts]).tolist()
        self._zeros = frozenset(name for name, is_zero in zip(sample.names, are_zero, strict=True) if is_zero)

    def _pause(self, step: int) -> int:
        """Steps until the next look: few at first, later a small part of the run."""
        planned = self.adapter.max_steps()
        by_length = RUN_FRAC * planned if planned else OPEN_END_FRAC * step
        longest = max(LEAST_STEPS, by_length, STEPS_PER_LAYER * len(self._places))
        age = step - self._since_step
        return 1 if age < LEAST_STEPS else max(1, min(round(longest), age // 2))

    def _find_places(self) -> None:
        """The trained layers as they are now: commands freeze and replace some."""
        held, sharded = held_by(self.adapter.optimizer()), 0
        found: list[tuple[str, nn.Module, str, nn.Parameter]] = []
        seen: set[int] = set()
        for layer_name, module in bare_model(self.adapter).named_modules():
            trained = {
                name: p
                for name, p in module._parameters.items()
                if p is not None and id(p) not in seen and (p.requires_grad or id(p) in held)
            }
            seen.update(map(id, trained.values()))
            whole = {name: p for name, p in trained.items() if is_whole(p)}
            name = max(whole, key=lambda own: whole[own].numel(), default="")
            if whole and whole[name].numel() > 1:  # a number alone, as a gate, goes through zero where all is well
                found.append((layer_name, module, name, whole[name]))
            sharded += bool(trained) and not whole
        each = min(LAYER_COORDINATES, max(LEAST_COORDINATES, ALL_COORDINATES // max(1, len(found))))
        self._places = [
            _Place(layer or parameter, module, parameter, p.numel(), self._index(dotted(layer, parameter), p, each))
            for layer, module, parameter, p in found
        ]
        self.skipped = f"{sharded} layers whose weights are sharded, or are not held as numbers" if sharded else ""

    def _index(self, name: str, parameter: nn.Parameter, count: int) -> Tensor:
        key = (name, parameter.numel(), parameter.device)
        if key not in self._indices:
            chosen = random.Random(name).sample(range(parameter.numel()), min(count, parameter.numel()))
            self._indices[key] = torch.tensor(sorted(chosen), device=parameter.device)
        return self._indices[key]


def _weights_at(place: _Place) -> Tensor | None:
    """The weights of a place; None if others stand there now, which an index may not fit."""
    weights = place.module._parameters.get(place.parameter)
    fits = weights is not None and weights.numel() == place.size and weights.device == place.index.device
    return weights if fits else None


def is_whole(parameter: nn.Parameter) -> bool:
    """Whether all of a tensor lies here, as numbers: no shard of FSDP's or DeepSpeed's, no quantized or sparse one."""
    is_sharded = hasattr(parameter, "to_local") or hasattr(parameter, "ds_numel")
    is_sharded = is_sharded or getattr(parameter, "_fsdp_flattened", False) or hasattr(parameter, "_sharded_size")
    is_plain = parameter.layout is torch.strided and parameter.is_floating_point() and not parameter.is_meta
    return is_plain and not is_sharded and parameter.numel() > 0
