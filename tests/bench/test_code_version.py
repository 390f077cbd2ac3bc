"""What a result rests on: no code decides a cell without being a part of its version."""

from __future__ import annotations

from pathlib import Path

import pytest

import agenttune
from agenttune.bench.catalog import TASKS, task_facts
from agenttune.bench.code_version import is_same_code, sources_of, version_of, with_fault, without_draw
from agenttune.bench.contenders.shipped import contenders
from agenttune.bench.training import Fault

TASK_MODULE = "agenttune.bench.tasks"
FACTS = task_facts("sim_quadratic")
QUADRATIC, NONE = f"{TASK_MODULE}.sim_quadratic", "agenttune.bench.contenders.references"


def reached() -> set[Path]:
    modules = {f"{TASK_MODULE}.{facts.implementation.partition(':')[0]}" for facts in TASKS.values()}
    modules |= {cls.__module__ for cls in contenders().values()}
    return {path for module in modules for path in sources_of(module).values()}


def test_every_file_of_the_tasks_and_contenders_is_a_part_of_some_version() -> None:
    bench = Path(agenttune.__file__).parent / "bench"
    files = {path for room in ("tasks", "contenders") for path in (bench / room).rglob("*.py")}
    contracts = {bench / "contenders" / name for name in ("__init__.py", "contender.py", "shipped.py")}
    assert files - contracts - {bench / "tasks" / "__init__.py"} - reached() == set()


def test_what_the_trainer_does_to_the_data_without_an_agent_counts_too() -> None:
    assert "agenttune.trainer.datasets.mixture" in sources_of(f"{TASK_MODULE}.text_mixture")
    assert not any("integrations" in name for name in sources_of(f"{TASK_MODULE}.text_mixture"))


@pytest.mark.parametrize(
    ("change", "counts"),
    [
        ({"direction": "maximize"}, True),
        ({"metric": "other"}, True),
        ({"about": "other"}, False),
        ({"target": 9}, False),
    ],
)
def test_figures_of_a_task_count_where_a_training_depends_on_them(change: dict[str, object], counts: bool) -> None:
    versions = [version_of(QUADRATIC, NONE, False, facts) for facts in (FACTS, FACTS.model_copy(update=change))]
    assert (versions[0] != versions[1]) is counts


def test_the_well_tuned_rate_counts_which_the_oracle_begins_with() -> None:
    other = FACTS.model_copy(update={"recipe": FACTS.recipe.with_changes(lr=1.0)})
    assert version_of(QUADRATIC, NONE, False, FACTS) != version_of(QUADRATIC, NONE, False, other)


def test_what_a_fault_makes_of_the_recipe_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    fault = Fault(kind="plateau", values={"lr_factor": 5.0})
    before = with_fault("1.a.b.-", "development", FACTS.recipe, fault)
    monkeypatch.setattr("agenttune.bench.faults.PLATEAU_WARMUP_FRAC", 0.5)
    after = with_fault("1.a.b.-", "development", FACTS.recipe, fault)
    assert before != after
    assert without_draw(before) == without_draw(after)
    assert without_draw(before).startswith("1.a.b.-.")


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("1.task.mine.agent", "1.task.none.-", True),
        ("1.task.mine.agent", "1.other.mine.agent", False),
        ("1.task.mine.agent", "1.task.sham.other", False),
        ("1.0123456789", "1.task.none.-", False),
    ],
)
def test_contenders_are_of_the_same_code_where_what_they_share_is(one: str, other: str, is_same: bool) -> None:
    assert is_same_code(one, other) is is_same
