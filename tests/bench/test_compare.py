"""Two contenders against one another, in words that the seeds allow."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from agenttune.bench.cell import CellResult
from agenttune.bench.compare import SideBySide, compare, comparison_page, contenders_of_both
from agenttune.bench.report import html, markdown, print_page
from agenttune.errors import UserError
from tests.bench.made_results import KINDS, TASKS, result, suite


def compared(first: list[CellResult], second: list[CellResult], *names: str) -> SideBySide:
    return compare(first, second, (names[0], names[-1]), None, TASKS, KINDS)


def test_two_contenders_of_one_benchmark() -> None:
    made = suite(seeds=10, faults=["healthy", "lr_x30", "label_noise"])
    found = compared(made, made, "rules", "idle")
    by_name = {s.scenario: s for s in found.scenarios}
    assert found.verdict == "better"
    assert by_name["digits/lr_x30"].verdict == "better"
    assert by_name["digits/healthy"].verdict == "no difference shown"
    assert by_name["digits/lr_x30"].difference.high < -0.5, "in the metric's own unit"
    turned = compared(made, made, "idle", "rules")
    assert turned.verdict == "worse"
    assert turned.overall.mean.estimate == pytest.approx(-found.overall.mean.estimate)
    page = comparison_page(found)
    assert "rules is better in: digits/label_noise, digits/lr_x30." in page.says
    assert "10 seeds" in page.origin
    for text in (markdown(page, "p"), html(page)):
        assert "rules against idle" in text
    console = Console(record=True, width=160, file=io.StringIO())
    print_page(console, page)
    assert "digits/lr_x30" in console.export_text()


def test_one_contender_in_two_folders_of_results() -> None:
    before, after = suite({"mine": 0.8, "other": 1.0}, 8), suite({"mine": 0.5}, 8)
    assert contenders_of_both(before, after) == ["mine"]
    assert compared(after, before, "mine").verdict == "better"
    assert compared(before, before, "mine").verdict == "the same in every pair"
    with pytest.raises(UserError, match="no contender is in both results: mine; other"):
        contenders_of_both([result("mine")], [result("other")])


def test_two_folders_are_measured_by_the_same() -> None:
    """What diverged in a folder whose `none` ended elsewhere is no better or worse for that."""
    before = [result(n, v, seed) for seed in range(8) for n, v in (("none", 1.0), ("oracle", 0.2), ("mine", 1e9))]
    after = [result(n, v, seed) for seed in range(8) for n, v in (("none", 2.2), ("oracle", 2.0), ("mine", 1e9))]
    assert compared(before, after, "mine").verdict == "the same in every pair"
    assert compared(after, before, "mine").verdict == "the same in every pair"
    assert compared(before, after, "none").verdict == "better", "those that are measured by can be compared too"


def test_only_what_both_did_is_compared() -> None:
    first = [result("mine", 0.5, seed) for seed in range(3)]
    second = [result("other", 0.6, seed) for seed in range(2, 6)]
    found = compared(first, second, "mine", "other")
    assert found.overall.pairs == 1
    assert found.unpaired == 5
    assert found.verdict == "too few seeds for a claim"
    nothing = compared(first, [result("other", fault="healthy")], "mine", "other")
    assert nothing.verdict == "no pairs"
    assert "No scenario and seed was done by both." in comparison_page(nothing).says
    with pytest.raises(UserError, match=r"no contender 'min'.*did you mean 'mine'"):
        compared(first, second, "min", "other")


def test_the_same_name_with_another_recipe_is_another_scenario() -> None:
    longer = []
    for made in [result("mine", 0.5, seed) for seed in range(3)]:
        recipe = made.cell.scenario.recipe.with_changes(steps=400)
        scenario = made.cell.scenario.model_copy(update={"recipe": recipe})
        longer.append(made.model_copy(update={"cell": made.cell.model_copy(update={"scenario": scenario})}))
    assert compared(longer, [result("mine", 0.5, seed) for seed in range(3)], "mine").verdict == "no pairs"
