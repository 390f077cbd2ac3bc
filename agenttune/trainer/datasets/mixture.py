"""A mixture of datasets whose sampling weights can be changed while a run draws from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch.utils.data import Dataset, IterableDataset

from agenttune.errors import UserError
from agenttune.trainer.datasets.draws import DrawPlan, DrawSpan
from agenttune.trainer.datasets.interactive import InteractiveType, RuntimeAttribute
from agenttune.trainer.datasets.parameters import parameters_of


class Mixture(Dataset[Any], metaclass=InteractiveType):
    """Samples of several map-style datasets, in proportions that can be changed live.

        train = Mixture({"wiki": wiki, "code": code}, weights={"wiki": 0.7, "code": 0.3}, size=10_000, seed=0)

    `weights` is a runtime parameter (`update_dataset_runtime_hyperparameters {"values": {"weights": {...}}}`): every
    source is named, no weight is negative, not all are zero; they are normalized to a sum of 1. `size` and `seed` are
    initialization parameters.

    **What is drawn.** Draw `index` of epoch `epoch` is a pure function of the seed, the epoch, the index, the weights
    in force and the weights with which earlier epochs ended; there is no counter. So it is the same in every worker,
    with any sampler, batch size and number of workers, and after a return to a checkpoint. A shuffled order of the
    epoch's places is cut into one stretch a source, as long as its weight times `size` (rounded: in a whole epoch
    with constant weights each source gives exactly its share, and one whose share rounds to nothing gives nothing).
    A place in the stretch says which item of the source, in a shuffled order of its own; the next epoch goes on in
    that order where this one ended. With constant weights no item is therefore drawn again before all others of its
    source were; after a change within an epoch that is so as long as the source is no smaller than the stretches
    that it was given in it together.

    The epoch comes from `set_epoch`, which transformers' Trainer calls by itself, and `make_interactive` too; a plain
    loop calls it before each epoch, or draws the same items in each.

    Args:
        sources: Map-style datasets by name. An iterable dataset is refused: it has no items to draw by their place.
        weights: By name. Default: in proportion to the sources' sizes.
        size: Draws in an epoch. Default: the sources' sizes together.
        seed: What all orders depend on.
        sample_loss: For the loss of each source, where the model's kind is not known to agenttune: gets the model's
            output and the batch, and returns one loss a sample.

    Raises:
        UserError: No source, an empty or an iterable one, or weights that are none.
    """

    agenttune_private = ("_epoch", "_spans")
    agenttune_fixed = ("sources", "sample_loss")
    weights: Any = RuntimeAttribute("weights")
    _epoch: Any = RuntimeAttribute("_epoch")
    _spans: Any = RuntimeAttribute("_spans")

    def __init__(
        self,
        sources: Mapping[str, Any],
        weights: Mapping[str, float] | None = None,
        size: int | None = None,
        seed: int = 0,
        sample_loss: Callable[[Any, Any], Any] | None = None,
    ) -> None:
        self.sources = dict(sources)
        self.sizes = _sizes(self.sources)
        self.seed = seed
        self.size = sum(self.sizes.values()) if size is None else size
        if isinstance(self.size, bool) or not isinstance(self.size, int) or self.size < 1:
            raise UserError(f"size is the number of draws in an epoch, at least 1, not {self.size!r}", field="size")
        self.sample_loss = sample_loss
        self.weights = self.fit_weights(dict(self.sizes) if weights is None else weights)
        self._epoch = 0
        self._spans: Any = []
        self._plan: DrawPlan | None = None
        self._planned_for: Any = None

    @property
    def names(self) -> tuple[str, ...]:
        """The sources' names; a sample's source is given as a place in these."""
        return tuple(self.sources)

    @property
    def epoch(self) -> int:
        """The epoch that is drawn from."""
        epoch: int = self._epoch
        return epoch

    def fit_weights(self, value: Any) -> dict[str, float]:
        """Weights as they would be put in force: checked, in the sources' order, normalized to a sum of 1.

        Raises:
            UserError: A source missing or unknown, no number, negative, not finite, or all zero.
        """
        if not isinstance(value, Mapping) or set(value) != set(self.sizes):
            raise UserError(
                f"weights name every source once: {', '.join(self.sizes)}; not {_described(value)}",
                field="weights",
                allowed=list(self.sizes),
            )
        for name, weight in value.items():
            _check_weight(name, weight)
        largest = max(value.values())
        if largest == 0:
            raise UserError("weights are all zero; at least one source must have a positive weight", field="weights")
        # By the largest first: their sum may be too large for a float.
        parts = {name: value[name] / largest for name in self.sizes}
        total = math.fsum(parts.values())
        return {name: part / total for name, part in parts.items()}

    def set_epoch(self, epoch: int) -> None:
        """Go to an epoch; the weights in force are noted as those with which the epochs until then ended.

        Going back to an earlier epoch forgets what was noted of later ones.
        """
        now, parameters = self.epoch, parameters_of(self)
        if epoch == now or parameters is None:
            return
        spans = [span for span in self._spans if span[0] < min(epoch, now)]
        if epoch > now and (not spans or spans[-1][1] != self.weights):
            spans.append([now, dict(self.weights)])
        parameters.write({"_epoch": epoch, "_spans": spans})

    def plan(self) -> DrawPlan:
        """The draws of the current epoch under the weights in force."""
        parameters = parameters_of(self)
        assert parameters is not None
        current = parameters.shared.current()
        if self._plan is None or current is not self._planned_for:
            spans = [DrawSpan(first, weights) for first, weights in current["_spans"]]
            self._plan = DrawPlan(self.sizes, self.size, self.seed, current["_epoch"], current["weights"], spans)
            self._planned_for = current
        return self._plan

    def draw(self, index: int) -> tuple[str, int]:
        """The source's name and the item's place in it that a draw gives."""
        source, item = self.plan().draw(range(self.size)[index])
        return self.names[source], item

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Any:
        source, item = self.plan().draw(range(self.size)[index])
        return sourced(self.sources[self.names[source]][item], source)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "sample_loss": None, "_plan": None, "_planned_for": None}


def _sizes(sources: Mapping[str, Any]) -> dict[str, int]:
    if not sources or not all(isinstance(name, str) and name for name in sources):
        raise UserError("a mixture has at least one source, each with a name", field="sources")
    for name, source in sources.items():
        if isinstance(source, IterableDataset) or not (hasattr(source, "__len__") and hasattr(source, "__getitem__")):
            raise UserError(
                f"source {name!r} is iterable ({type(source).__name__}): a mixture draws items by their place, so that "
                "a run can be continued exactly; give a map-style dataset",
                field="sources",
            )
        if len(source) == 0:
            raise UserError(f"source {name!r} is empty", field="sources")
    return {name: len(source) for name, source in sources.items()}


def _check_weight(name: str, weight: Any) -> None:
    is_number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
    if not is_number or not math.isfinite(weight) or weight < 0:
        raise UserError(
            f"weights.{name} is a finite number, 0 or more, not {weight!r:.80}",
            field=f"weights.{name}",
            allowed={"minimum": 0},
        )


def _described(value: Any) -> str:
    if not isinstance(value, Mapping):
        return f"{value!r:.80}"
    return ", ".join(map(str, value)) or "none"


class SourcedDict(dict[Any, Any]):
    """A sample that knows its source."""

    agenttune_source: int


class SourcedTuple(tuple[Any, ...]):
    """A sample that knows its source."""

    agenttune_source: int


def sourced(sample: Any, source: int) -> Any:
    """The sample, marked with its source; one that is neither a mapping nor a tuple stays as it is."""
    marked: SourcedDict | SourcedTuple
    if isinstance(sample, Mapping):
        marked = SourcedDict(sample)
    elif type(sample) is tuple:
        marked = SourcedTuple(sample)
    else:
        return sample
    marked.agenttune_source = source
    return marked
