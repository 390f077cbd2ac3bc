"""A simulated trainer publishes what a real one does: rules that judge a rate by the weights' way judge it alike."""

from __future__ import annotations

import functools
import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agenttune.bench.catalog import open_task, task_facts
from agenttune.bench.in_process import RUN_ID, InProcessAgent
from agenttune.bench.settings import BenchSettings
from agenttune.bench.training import Training
from agenttune.policy.load import open_policy
from agenttune.protocol.events import Event, KnobsRead, WeightsSampled
from agenttune.protocol.weight_looks import WeightLook
from agenttune.store.run_log import RunLog

STEPS = 60
SIMULATORS = ["sim_quadratic", "sim_curve", "sim_groups"]


@functools.cache
def published(task: str, lr_factor: float = 1.0, seed: int = 0) -> tuple[Event, ...]:
    """The events of a run that an agent only watches."""
    facts = task_facts(task)
    recipe = facts.recipe.with_changes(steps=STEPS, eval_every=20, lr=facts.recipe.lr * lr_factor)
    with tempfile.TemporaryDirectory() as folder:
        made = InProcessAgent(
            Path(folder), facts, BenchSettings(), lambda context: open_policy("noop", context), Path.cwd()
        )
        try:
            open_task(facts).train(Training(recipe, seed, "development", STEPS, agent=made.agent))
        finally:
            made.close()
        log = RunLog.open(Path(folder) / RUN_ID)
        events = tuple(log.events(limit=10_000))
        log.close()
    return events


def looks(events: Sequence[Event]) -> list[WeightLook]:
    return [event.body.look for event in events if isinstance(event.body, WeightsSampled)]


def kinds(events: Sequence[Event]) -> set[str]:
    return {event.body.kind for event in events}


def form(value: Any) -> Any:
    """What a JSON value is made of, whatever its figures and names of layers are."""
    if isinstance(value, dict):
        return {"": form(next(iter(value.values())))} if value and _are_names(value) else _fields(value)
    if isinstance(value, (int, float)) or value in ("NaN", "Infinity", "-Infinity"):
        return "number"
    return type(value).__name__


def _are_names(value: dict[str, Any]) -> bool:
    return all(isinstance(inner, (int, float, str)) for inner in value.values()) and not {"step", "kind"} & value.keys()


def _fields(value: dict[str, Any]) -> dict[str, Any]:
    return {key: form(inner) for key, inner in value.items()}


def form_of(events: Sequence[Event], kind: str) -> Any:
    found = [event.body for event in events if event.body.kind == kind]
    return form(json.loads(found[-1].model_dump_json()))


def known_rates(events: Sequence[Event]) -> set[str]:
    """What is told of rates: their values, their groups and what the schedule has planned."""
    read = [event.body for event in events if isinstance(event.body, KnobsRead)]
    return {name for knob in read[-1].knobs if knob.name == "lr" for name, value in knob if value is not None}


def rhythms(events: Sequence[Event]) -> dict[str, Any]:
    """How often the loop evaluates and logs, and whether its schedule is known to the end."""
    [*_, read] = [event.body for event in events if isinstance(event.body, KnobsRead)]
    assert read.facts is not None
    assert read.schedule is not None
    return {**read.facts.model_dump(include={"evaluation", "logging"}), "ahead": read.schedule.is_foretold}


@pytest.fixture(scope="module")
def real() -> tuple[Event, ...]:
    pytest.importorskip("mlxtend")
    return published("mlp_overfit")


@pytest.mark.parametrize("task", SIMULATORS)
def test_a_simulation_publishes_the_same_events_as_the_real_trainer(task: str, real: tuple[Event, ...]) -> None:
    simulated = published(task)
    needed = {"weights_sampled", "knobs_read", "checkpoint_saved", "evaluated", "run_started", "status_changed"}
    assert needed <= kinds(real) & kinds(simulated)
    for kind in ("weights_sampled", "checkpoint_saved"):
        assert form_of(simulated, kind) == form_of(real, kind)
    assert known_rates(simulated) == known_rates(real)
    assert rhythms(simulated) == rhythms(real)


@pytest.mark.parametrize("task", SIMULATORS)
def test_looks_come_at_the_same_steps_and_are_whole(task: str, real: tuple[Event, ...]) -> None:
    simulated = looks(published(task))
    assert [look.step for look in simulated] == [look.step for look in looks(real)]
    for name in ("straightness", "update_ratio", "early_update_ratio"):
        told = [[math.isfinite(getattr(look, name)) for look in of] for of in (simulated, looks(real))]
        assert told[0] == told[1]
    assert set(simulated[-1].ratios) == ({"encoder", "head"} if task == "sim_groups" else {"weights"})


@pytest.mark.quick("0-*")
@pytest.mark.parametrize("task", SIMULATORS)
@pytest.mark.parametrize("seed", range(3))
def test_the_weights_of_a_simulation_tell_a_good_rate_from_others_as_those_of_networks_do(task: str, seed: int) -> None:
    """The figures of networks: see `detectors/rates.py`, which goes by them."""
    good, low = looks(published(task, seed=seed)), looks(published(task, 0.01, seed))
    assert 0.01 < good[-1].early_update_ratio < 0.25
    assert low[-1].early_update_ratio < 0.005  # of the group that moves most
    assert low[-1].straightness > 0.6
    assert low[-1].straightness > good[-1].straightness
    high = [look.early_update_ratio for look in looks(published(task, 30, seed))]
    assert max(ratio for ratio in high if math.isfinite(ratio)) > 0.4
