"""From a suite to its cells."""

from __future__ import annotations

from agenttune.bench.catalog import task_facts
from agenttune.bench.cell import Cell, Scenario
from agenttune.bench.code_version import version_of
from agenttune.bench.contender_entries import ContenderEntry
from agenttune.bench.faults import draw, fault_kind
from agenttune.bench.suite import Suite


def cells_of(suite: Suite) -> list[Cell]:
    """All of them; a seed of every scenario before the next, so that half a run tells something of each."""
    return [
        _cell(suite, scenario, contender, seed)
        for seed in suite.seeds
        for scenario in suite.scenarios
        for contender in suite.contenders
    ]


def _cell(suite: Suite, scenario: Scenario, contender: ContenderEntry, seed: int) -> Cell:
    acts = contender.role == "policy"
    module = f"agenttune.bench.tasks.{task_facts(scenario.task).implementation.partition(':')[0]}"
    fault = draw(fault_kind(scenario.fault), scenario.task, seed, suite.split, scenario.recipe.steps)
    return Cell(
        scenario=scenario,
        seed=seed,
        split=suite.split,
        contender=contender.name,
        spec=contender.spec,
        code=contender.code,
        settings=suite.settings if acts else {},
        version=version_of(module, contender.module, acts, fault.model_dump_json()),
    )
