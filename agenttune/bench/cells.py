"""From a suite to its cells."""

from __future__ import annotations

from agenttune.bench.catalog import task_facts
from agenttune.bench.cell import Cell, Scenario
from agenttune.bench.code_version import checksum_of, version_of
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
    cls = contender.cls
    code = version_of(_task_module(scenario), cls.__module__, cls.acts_through_gate)
    fault = draw(fault_kind(scenario.fault), scenario.task, seed, suite.split, scenario.recipe.steps)
    cell = Cell(
        scenario=scenario,
        seed=seed,
        split=suite.split,
        contender=contender.name,
        spec=contender.spec,
        code=contender.code,
        settings=suite.settings if cls.acts_through_gate else {},
        version=f"{code}.{checksum_of(fault.model_dump_json())}",
    )
    if cls.sees_fault:
        return cell
    without = scenario.model_copy(update={"fault": "", "label": ""})
    return cell.model_copy(update={"work": cell.model_copy(update={"scenario": without, "version": code}).key})


def _task_module(scenario: Scenario) -> str:
    return f"agenttune.bench.tasks.{task_facts(scenario.task).implementation.partition(':')[0]}"
