"""Faults in the data. Batches are dictionaries of tensors whose first dimension is that of the rows.

`labels` are what is to be predicted: classes, numbers, or tokens; other tensors of integers are tokens.
"""

from __future__ import annotations

from typing import Any

import torch

from agenttune.bench.tasks.injection.gradients import scale_gradients
from agenttune.bench.tasks.injection.injector import Injector, injects

GARBAGE_SIGMAS = 3.0
"""Size of the noise instead of inputs, in their own standard deviations (guess)."""
IGNORED_LABEL = -100
"""What transformers and torch leave out of the loss (known)."""
SHAPES = ("attention_mask", "token_type_ids", "position_ids")
"""Tensors that are no data."""
Batch = dict[str, Any]


def data_of(inputs: Batch) -> dict[str, torch.Tensor]:
    """The tensors of a batch that are data, labels included."""
    return {name: t for name, t in inputs.items() if isinstance(t, torch.Tensor) and t.dim() and name not in SHAPES}


def shuffled(tensor: torch.Tensor, frac: float, source: torch.Generator) -> torch.Tensor:
    """A copy in which about this part of the entries is exchanged among themselves; ignored labels stay."""
    flat = tensor.clone().reshape(-1)
    chosen = (torch.rand(len(flat), generator=source) < frac) & (flat.cpu() != IGNORED_LABEL)
    places = chosen.nonzero().reshape(-1)
    others = places[torch.randperm(len(places), generator=source)]
    flat[places.to(flat.device)] = flat[others.to(flat.device)]
    return flat.reshape(tensor.shape)


def taken(value: Any, order: torch.Tensor, rows: int) -> Any:
    """These rows of a tensor that has so many; whatever else is in a batch stays."""
    if isinstance(value, torch.Tensor) and value.dim() and len(value) == rows:
        return value[order.to(value.device)]
    return value


def garbage(inputs: Batch, source: torch.Generator) -> Batch:
    """Noise instead of numbers, and tokens and classes in disorder."""
    made = {}
    for name, tensor in data_of(inputs).items():
        if tensor.is_floating_point():
            spread = float(tensor.std()) if tensor.numel() > 1 else 1.0
            noise = torch.randn(tensor.shape, generator=source) * GARBAGE_SIGMAS * max(spread, 1e-6)
            made[name] = noise.to(tensor)
        else:
            made[name] = shuffled(tensor, 1.0, source)
    return inputs | made


class _Garbage(Injector):
    """Garbage at some steps, from the onset on."""

    @property
    def length(self) -> int:
        """Steps that it takes."""
        return 1

    def strikes(self, step: int) -> bool:
        return self.fault.step <= step < self.fault.step + self.length

    def before_forward(self, inputs: Batch, step: int) -> Batch:
        if not self.strikes(step):
            return inputs
        return garbage(inputs, torch.Generator().manual_seed(self.seed_at(step)))


@injects("corrupt_batch", "corrupt_burst")
class Corrupt(_Garbage):
    """Garbage with gradients that are too large."""

    @property
    def length(self) -> int:
        return self.count("batches") if "batches" in self.fault.values else 1

    def after_backward(self, step: int) -> None:
        if self.strikes(step):
            scale_gradients(self.model, self.value("grad_factor"))


@injects("healing_spike")
class HealingSpike(_Garbage):
    """Garbage whose gradients are not used: the loss is high, and the weights stay good."""

    @property
    def length(self) -> int:
        return self.count("batches")

    def after_backward(self, step: int) -> None:
        if self.strikes(step):
            scale_gradients(self.model, 0.0)


@injects("label_noise")
class LabelNoise(Injector):
    """A part of the labels changes places with one another."""

    def before_forward(self, inputs: Batch, step: int) -> Batch:
        if step < self.fault.step:
            return inputs
        source = torch.Generator().manual_seed(self.seed_at(step))
        name = "labels" if "labels" in inputs else "input_ids"  # such a model predicts what it reads
        return inputs | {name: shuffled(inputs[name], self.value("noise_frac"), source)}


@injects("mixture_shift")
class MixtureShift(Injector):
    """Most rows come from only one part of the data: some classes, or one side of the values; texts run backwards."""

    def shifted_frac(self, step: int) -> float:
        """Part of the rows of a step's batch that are not as they should be."""
        return self.value("shifted_frac") if step >= self.fault.step else 0.0

    def before_forward(self, inputs: Batch, step: int) -> Batch:
        data, shifted_frac = data_of(inputs), self.shifted_frac(step)
        if not shifted_frac or not data:
            return inputs
        source = torch.Generator().manual_seed(self.seed_at(step))
        lead = data.get("labels", next(iter(data.values())))
        rows = len(lead)
        shifted = torch.rand(rows, generator=source) < shifted_frac
        if lead.dim() > 1 and not lead.is_floating_point():
            return inputs | {name: _backwards(t, shifted) for name, t in data.items() if t.dim() > 1}
        kept = self._kept(lead).nonzero().reshape(-1)
        if not len(kept):
            return inputs
        instead = kept[torch.randint(len(kept), (rows,), generator=source)]
        order = torch.where(shifted, instead, torch.arange(rows))
        return {name: taken(value, order, rows) for name, value in inputs.items()}

    def _kept(self, lead: torch.Tensor) -> torch.Tensor:
        """[rows]: whether a row is of the part that is left."""
        rows = lead.detach().cpu().reshape(len(lead), -1)
        if not lead.is_floating_point():
            return (rows[:, 0] + self.seed) % 2 == 0
        means = rows.float().mean(dim=1)
        return means >= means.median() if self.seed % 2 else means <= means.median()


@injects("curriculum")
class Curriculum(MixtureShift):
    """Training begins with that part alone, and comes to all of the data."""

    def shifted_frac(self, step: int) -> float:
        return 1.0 if step < self.fault.step else 0.0


@injects("plateau")
class SmallBatches(Injector):
    """Only a part of each batch's rows is used."""

    def before_forward(self, inputs: Batch, step: int) -> Batch:
        data = data_of(inputs)
        if not data:
            return inputs
        rows = len(next(iter(data.values())))
        left = torch.arange(max(1, round(rows * self.value("rows_frac"))))
        return {name: taken(value, left, rows) for name, value in inputs.items()}


def _backwards(tokens: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
    turned = tokens.clone()
    turned[which.to(tokens.device)] = tokens[which.to(tokens.device)].flip(1)
    return turned


@injects("overfitting")
class FewBatches(Injector):
    """The first batches from the onset on come again and again."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._seen: dict[int, Batch] = {}

    def before_forward(self, inputs: Batch, step: int) -> Batch:
        since = step - self.fault.step
        if since < 0:
            return inputs
        place = since % self.count("batches")
        if since < self.count("batches"):
            self._seen[place] = {n: t.clone() if isinstance(t, torch.Tensor) else t for n, t in inputs.items()}
        return self._seen.get(place, inputs)
