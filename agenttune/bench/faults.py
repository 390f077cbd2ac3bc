"""The faults of scenarios: for each kind what it draws from, what shows that it was found, and what the right move is.

The values of the test range lie outside of those of the development range; `draw` is the only way to them.
"""

from __future__ import annotations

import hashlib
import math
import random
from typing import Any, NamedTuple

from pydantic import Field

from agenttune.bench.training import Fault, Recipe, Split
from agenttune.errors import ConfigError
from agenttune.protocol.invalid_values import did_you_mean
from agenttune.protocol.proposals import Record

DEVELOPMENT_SEEDS, TEST_SEEDS = range(10_000), range(10_000, 20_000)


class Span(NamedTuple):
    """Values from `low` to `high`, drawn evenly in their logarithms where `is_log`."""

    low: float
    high: float
    is_log: bool = True

    def draw(self, source: random.Random) -> float:
        if self.is_log:
            return math.exp(source.uniform(math.log(self.low), math.log(self.high)))
        return source.uniform(self.low, self.high)


class FaultKind(Record):
    """A kind of fault.

    Attributes:
        name: In suites.
        about: In a sentence.
        group: What reports sum it up under.
        development, test: Spans of its parameters by name; `onset_frac` is when it sets in, as a part of the run.
        findings: Kinds of findings any of which counts as having found it; none: there is nothing to be found.
        strikes_layer: Whether one layer is at fault, which a finding should name.
        is_recipe: Whether it lies in the recipe (rate, schedule) rather than in what happens during training.
        right_move: In words, for the report; `none` where everything is well.
    """

    name: str
    about: str
    group: str
    development: dict[str, Span] = Field(default_factory=dict)
    test: dict[str, Span] = Field(default_factory=dict)
    findings: list[str] = Field(default_factory=list)
    strikes_layer: bool = False
    is_recipe: bool = False
    right_move: str = "none"

    @property
    def is_healthy(self) -> bool:
        return self.right_move == "none"


FAULTS: dict[str, FaultKind] = {}
"""By name."""


def _add(kind: FaultKind) -> None:
    FAULTS[kind.name] = kind


def fault_kind(name: str) -> FaultKind:
    """Raises ConfigError for a fault that there is not."""
    if name not in FAULTS:
        known = sorted(FAULTS)
        raise ConfigError(f"no fault {name!r}{did_you_mean(name, known)}; there are: {', '.join(known)}", allowed=known)
    return FAULTS[name]


def draw(kind: FaultKind, task: str, seed: int, split: Split, steps: int) -> Fault:
    """The fault of one seed: the same for every contender.

    Raises:
        ConfigError: The seed is not of that range.
    """
    seeds = DEVELOPMENT_SEEDS if split == "development" else TEST_SEEDS
    if seed not in seeds:
        raise ConfigError(f"seed {seed} is not of the {split} range ({seeds.start} to {seeds.stop - 1})", field="seeds")
    digest = hashlib.sha256(f"{kind.name}:{task}:{split}:{seed}".encode()).digest()
    source = random.Random(int.from_bytes(digest[:8], "big"))
    spans = kind.development if split == "development" else kind.test
    values = {name: span.draw(source) for name, span in sorted(spans.items())}
    onset = values.pop("onset_frac", 0.0)
    return Fault(kind=kind.name, step=round(onset * steps), values=dict(values))


def faulty_recipe(recipe: Recipe, fault: Fault) -> Recipe:
    """A task's recipe as a fault leaves it."""
    changes: dict[str, Any] = {}
    if "lr_factor" in fault.values:
        changes["lr"] = recipe.lr * float(fault.values["lr_factor"])
    if "decay_after_frac" in fault.values:
        changes["decay_after_frac"] = float(fault.values["decay_after_frac"])
    return recipe.with_changes(**changes) if changes else recipe


_TOO_HIGH = ["divergence", "plateau", "non_finite"]

_add(FaultKind(name="healthy", about="well tuned; nothing goes wrong", group="healthy"))
_add(
    FaultKind(
        name="lr_x30",
        about="the rate is some thirty times too high",
        group="rate too high",
        development={"lr_factor": Span(25, 35)},
        test={"lr_factor": Span(18, 24.9)},
        findings=_TOO_HIGH,
        is_recipe=True,
        right_move="go back, and lower the rate",
    )
)
