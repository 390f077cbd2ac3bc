"""From a suite to its cells."""

from __future__ import annotations

import hashlib

from agenttune.bench.catalog import facts_of, task_facts
from agenttune.bench.cell import Cell, Scenario
from agenttune.bench.code_version import version_of, with_fault
from agenttune.bench.contender_entries import ContenderEntry
from agenttune.bench.faults import draw, fault_kind
from agenttune.bench.script_task import __name__ as script_module
from agenttune.bench.script_task import applies_to_scripts
from agenttune.bench.suite import Suite


def cells_of(suite: Suite) -> list[Cell]:
    """All of them; a seed of every scenario before the next, so that half a run tells something of each."""
    return [
        _cell(suite, scenario, contender, seed)
        for place, seed in enumerate(suite.seeds)
        for scenario in suite.scenarios
        for contender in suite.contenders
        if contender.seeds is None or place < contender.seeds
        if scenario.script is None or applies_to_scripts(contender.spec)
    ]


def _cell(suite: Suite, scenario: Scenario, contender: ContenderEntry, seed: int) -> Cell:
    cls = contender.cls
    task = script_module if scenario.script is not None else _task_module(scenario)
    code = version_of(task, cls.__module__, cls.acts_through_gate or scenario.script is not None, facts_of(scenario))
    looks = cls.acts_through_gate or scenario.script is not None
    fault = draw(fault_kind(scenario.fault), scenario.task, seed, suite.split, scenario.recipe.steps)
    cell = Cell(
        scenario=scenario,
        seed=seed,
        split=suite.split,
        contender=contender.name,
        spec=contender.spec,
        code=contender.code | _script_code(suite, scenario) | (suite.detector_code if looks else {}),
        settings=suite.settings if cls.acts_through_gate else {},
        version=with_fault(code, suite.split, scenario.recipe, fault),
    )
    if cls.sees_fault:
        return cell
    without = scenario.model_copy(update={"fault": "", "label": ""})
    return cell.model_copy(update={"work": cell.model_copy(update={"scenario": without, "version": code}).key})


def _script_code(suite: Suite, scenario: Scenario) -> dict[str, str]:
    if scenario.script is None:
        return {}
    return {scenario.script.path: hashlib.sha256((suite.project / scenario.script.path).read_bytes()).hexdigest()}


def _task_module(scenario: Scenario) -> str:
    return f"agenttune.bench.tasks.{task_facts(scenario.task).implementation.partition(':')[0]}"
