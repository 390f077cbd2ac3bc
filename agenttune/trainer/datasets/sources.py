"""The loss of each source of a mixture: samples say where they come from, batches carry it past the collator.

A sample is a dict (or tuple) with one more attribute, so that its keys are those of the source and every collator works
as it does without a mixture. Nothing here draws random numbers or touches the loss that is trained on.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Callable, MutableMapping, Sequence
from typing import Any

import torch

from agenttune.trainer.datasets.mixture import Mixture
from agenttune.trainer.datasets.sample_losses import LossKind, kind_of_loss, sample_losses

logger = logging.getLogger("agenttune")

KEY = "_agenttune_sources"
"""The batch's entry that says of which source each sample is; bytes, which no loader moves or changes."""
SampleLoss = Callable[[Any, Any], torch.Tensor]


class SourceCollator:
    """A collator whose batches say where their samples come from; outside of all others.

    Args:
        collate: The collator that makes the batch.
    """

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, samples: list[Any]) -> Any:
        batch = self.collate(samples)
        sources = [getattr(sample, "agenttune_source", None) for sample in samples]
        known = [source for source in sources if source is not None]
        if isinstance(batch, MutableMapping) and len(known) == len(sources):
            batch[KEY] = array("I", known).tobytes()
        return batch


class SourceLosses:
    """Gathers, over the micro-batches of a step, the loss of each source.

    `begin` before the forward pass, `add` after it, `finish` at the end of the step.

    Args:
        names: The sources.
        sample_loss: One loss a sample, of a model's output and its batch; by default by the model's kind.
    """

    def __init__(self, names: Sequence[str], sample_loss: SampleLoss | None = None) -> None:
        self.names = tuple(names)
        self.sample_loss = sample_loss
        self._sources: list[int] | None = None
        self._batch: dict[str, Any] = {}
        self._sums: torch.Tensor | None = None
        self._weights: torch.Tensor | None = None
        self._present: set[int] = set()
        self._kind: LossKind | None = None
        self._is_off = False

    @property
    def is_waiting(self) -> bool:
        """Whether a batch was begun whose loss is not known yet."""
        return self._sources is not None

    def sources_of_batch(self) -> list[int]:
        """Places in `names`, one a sample, of the batch begun last."""
        return list(self._sources or ())

    def begin(self, batch: Any) -> None:
        """Take the sources out of a batch, before a model sees it."""
        self._sources = None
        if not isinstance(batch, MutableMapping):
            return
        coded = batch.pop(KEY, None)
        if coded is not None and not self._is_off:
            self._sources = array("I", coded).tolist()
            self._batch = dict(batch)

    def add(self, model: Any, output: Any) -> None:
        """The model's output for the batch begun last; one that gives no loss a sample is reported once."""
        sources, batch = self._sources, self._batch
        self._sources, self._batch = None, {}
        if sources is None:
            return
        try:
            with torch.no_grad():
                sums, weights = self._losses(model, output, batch)
                self._gather(sources, sums, weights)
        except Exception as error:  # the user's model or function; not worth the user's training
            self._is_off = True
            logger.warning(
                "the loss of each source is not recorded: %s: %s; give the mixture a sample_loss, a function of the "
                "model's output and the batch that returns one loss a sample",
                type(error).__name__,
                error,
            )

    def _losses(self, model: Any, output: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Sums of losses and their weights, each [batch]."""
        if self.sample_loss is not None:
            losses = self.sample_loss(output, batch).detach()
            return losses, torch.ones_like(losses)
        if self._kind is None:
            self._kind = kind_of_loss(model)
        return sample_losses(output, batch, self._kind)

    def _gather(self, sources: list[int], sums: torch.Tensor, weights: torch.Tensor) -> None:
        """Add sums and weights, [batch] each, to those of their sources, [n_sources]."""
        if sums.shape != (len(sources),):
            raise ValueError(f"losses of shape {tuple(sums.shape)} for {len(sources)} samples")
        if self._sums is None or self._weights is None:
            self._sums = torch.zeros(len(self.names), device=sums.device)
            self._weights = torch.zeros(len(self.names), device=sums.device)
        index = torch.tensor(sources).to(sums.device, non_blocking=True)
        self._sums.index_add_(0, index, sums.float())
        self._weights.index_add_(0, index, weights.float())
        self._present |= set(sources)

    def finish(self) -> dict[str, torch.Tensor]:
        """Mean loss, [], of each source in the step, as `loss/<name>`; still on the device, in nats for texts."""
        if not self._present or self._sums is None or self._weights is None:
            return {}
        means = (self._sums / self._weights).unbind()
        found = {f"loss/{self.names[i]}": means[i] for i in sorted(self._present)}
        self._sums = self._weights = None
        self._present = set()
        return found


def attach_sources(loader: Any, dataset: Any) -> SourceLosses | None:
    """Have a loader's batches say where their samples come from; None, and nothing done, if there is no mixture."""
    if not isinstance(dataset, Mixture):
        return None
    inner = getattr(loader, "base_dataloader", loader)  # accelerate's loaders draw from one that they hold
    if not isinstance(inner.collate_fn, SourceCollator):
        inner.collate_fn = SourceCollator(inner.collate_fn)
    return SourceLosses(dataset.names, dataset.sample_loss)
