"""A moment of a run with a change that was made there, and what that gained against leaving the run alone."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from agenttune.policy.learned.features import Numbers, inputs
from agenttune.policy.learned.possible_changes import CHANGES
from agenttune.policy.learned.snapshot import Snapshot


@dataclass(frozen=True)
class TrainingExample:
    """One row of what is learned from.

    Attributes:
        run: Rows of one run are alike: they are drawn, held out and told together.
        task, group: Of the benchmark: what was trained, and what kind of thing went wrong.
        snapshot: What was known then.
        change: Name of the change.
        gain: By how much the goal metric was better for it, as a part of the worse of the two values: from -1 to 1.
    """

    run: str
    task: str
    group: str
    snapshot: Snapshot
    change: str
    gain: float

    @cached_property
    def inputs(self) -> Numbers:
        """As an ensemble takes them: [1, columns]."""
        return inputs(self.snapshot, [BY_NAME[self.change]])


BY_NAME = {change.name: change for change in CHANGES}


def gain_of(left_alone: float, changed: float) -> float:
    """From -1 to 1, of a metric of which less is better.

    Args:
        left_alone: What the run came to without the change.
        changed: What it came to with it.
    """
    largest = max(abs(left_alone), abs(changed))
    return min(1.0, max(-1.0, (left_alone - changed) / largest)) if largest > 0 and math.isfinite(largest) else 0.0


def write_moments(path: Path, moments: Iterable[TrainingExample]) -> None:
    """One row of JSON a line; whole or not at all."""
    aside = path.with_suffix(".part")
    aside.write_text("".join(json.dumps(asdict(moment)) + "\n" for moment in moments), encoding="utf-8")
    aside.replace(path)


def read_moments(path: Path) -> list[TrainingExample]:
    """As written."""
    return [_moment(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def _moment(row: dict[str, Any]) -> TrainingExample:
    return TrainingExample(**{**row, "snapshot": Snapshot(**row["snapshot"])})
