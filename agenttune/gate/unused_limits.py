"""Limits that protect nothing in a run: they speak of knobs that it does not have."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from agenttune.config import GateSettings
from agenttune.gate.gate import Gate
from agenttune.protocol.events import DatasetRead, KnobState, RunInfo


def guards_nothing(info: RunInfo, knobs: Iterable[KnobState], dataset: DatasetRead | None) -> list[str]:
    """A sentence for each knob of `gate.bounds` and `gate.approval` that the run does not have.

    Args:
        info: The run, with its settings.
        knobs: What can be changed in it.
        dataset: Its training dataset, whose parameters can be changed too.
    """
    known = {knob.name for knob in knobs}
    if dataset is not None:
        known |= {*dataset.initialization, *dataset.runtime}
    return [_sentence(name, where, known) for name, where in _named(Gate.of(info).settings) if name not in known]


def _named(settings: GateSettings) -> list[tuple[str, str]]:
    return list(settings.knobs.items())


def _sentence(name: str, where: str, known: set[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"{where} protects nothing: this run has no knob {name!r}{hint or ';'} it has: {', '.join(sorted(known))}"
