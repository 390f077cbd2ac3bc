"""A suite file is checked as a whole before anything starts; what is wrong is told with file, line and key."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agenttune.bench.cells import cells_of
from agenttune.bench.suite import FOLDER, Suite, load_suite
from agenttune.config.resources import list_resources
from agenttune.errors import ConfigError

GOOD = """\
name: mine
seeds: 2
scenarios:
  - {task: mnist_cnn, fault: [healthy, lr_x30], recipe: {steps: 60, eval_every: 20}}
contenders:
  - none
  - jitter
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], str]:
    def written(text: str) -> str:
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        return str(path)

    return written


def test_a_suite_is_every_scenario_with_every_contender_and_seed(write: Callable[[str], str]) -> None:
    cells = cells_of(load_suite(write(GOOD)))
    assert len(cells) == len({cell.key for cell in cells}) == 2 * 2 * 2
    first = cells[0]
    assert (first.scenario.name, first.contender, first.seed) == ("mnist_cnn/healthy", "none", 0)
    assert first.scenario.recipe.steps == 60
    assert {cell.seed for cell in cells[:4]} == {0}, "half of a run tells something of every scenario"


def test_a_contender_may_take_part_with_the_first_seeds_alone(write: Callable[[str], str]) -> None:
    text = GOOD.replace("seeds: 2", "seeds: [7, 3, 5]").replace("jitter", "{type: jitter, seeds: 2}")
    cells = cells_of(load_suite(write(text)))
    seeds = {name: [cell.seed for cell in cells if cell.contender == name] for name in ("none", "jitter")}
    assert seeds == {"none": [7, 7, 3, 3, 5, 5], "jitter": [7, 7, 3, 3]}
    everywhere = cells_of(load_suite(write(text.replace(", seeds: 2}", "}"))))
    assert {cell.key for cell in cells} < {cell.key for cell in everywhere}, "what is done already stays done"
    assert {cell.seed for cell in cells_of(load_suite(write(text), seeds=1))} == {0}, "fewer are asked for"


@pytest.mark.parametrize(
    ("change", "line", "problem"),
    [
        (("mnist_cnn", "mnist_cn"), 4, "scenarios.0.task: no task 'mnist_cn'; did you mean 'mnist_cnn'?"),
        (("lr_x30", "lr_x3"), 4, "scenarios.0.fault.1: no fault 'lr_x3'; did you mean"),
        (
            ("lr_x30", "layer_dropout"),
            4,
            "scenarios.0.fault.1: task mnist_cnn cannot suffer layer_dropout, which needs",
        ),
        (("steps: 60", "step: 60"), 4, "scenarios.0.recipe.step: unknown key; did you mean 'steps'?"),
        (("steps: 60", "steps: 0"), 4, "scenarios.0.recipe.steps: must be above 0"),
        (("jitter", "jiter"), 7, "contenders.1: no contender or policy 'jiter'; did you mean 'jitter'?"),
        (("jitter", "none"), 7, "contenders.1: two contenders are called 'none'"),
        (("jitter", "./mine.py:Mine"), 7, "contenders.1: policy './mine.py:Mine': there is no file"),
        (("jitter", "{type: jitter, amount: 3}"), 7, "contenders.1.amount: unknown key"),
        (("jitter", "{type: jitter, seeds: 0}"), 7, "contenders.1.seeds: "),
        (("jitter", "{type: jitter, seeds: few}"), 7, "contenders.1.seeds: "),
        (("jitter", "{type: jitter, seeds: 3}"), 7, "contenders.1.seeds: the suite has 2 seeds, not 3"),
        (("jitter", "{type: jitter, seed: 1}"), 7, "contenders.1.seed: unknown key; did you mean 'seeds'?"),
        (("seeds: 2", "seeds: 0"), 2, "seeds: from 1 to 10000 seeds, not 0"),
        (("seeds: 2", "seeds: [0, 10000]"), 2, "seeds.1: seed 10000 is not of the development range"),
        (("seeds: 2", "settings: {wake: {every_step: 3}}"), 2, "settings.wake.every_step: unknown key; did you mean"),
        (("seeds: 2", "split: test"), 2, "split: the test range is for final claims; say so with --test"),
        (("name: mine", "title: mine"), 1, "title: unknown key"),
    ],
)
def test_what_is_wrong_is_told_with_file_line_and_key(
    write: Callable[[str], str], change: tuple[str, str], line: int, problem: str
) -> None:
    path = write(GOOD.replace(*change))
    with pytest.raises(ConfigError) as told:
        load_suite(path)
    assert told.value.message.startswith(f"{path}:{line}: {problem}")


def test_two_scenarios_of_one_name_are_refused_unless_they_have_labels(write: Callable[[str], str]) -> None:
    twice = "  - {task: mnist_cnn, recipe: {lr: 0.1}}\n  - {task: mnist_cnn, recipe: {lr: 0.2}}\n"
    text = GOOD.replace("contenders:", f"{twice}contenders:")
    with pytest.raises(ConfigError, match=r"mine.yaml:5: .*mnist_cnn/healthy is there already; give this one a label"):
        load_suite(write(text))
    text = text.replace("lr: 0.1", "schedule: cosine").replace("lr: 0.2}", "lr: 0.2}, label: quick")
    names = [scenario.name for scenario in load_suite(write(text)).scenarios]
    assert names == ["mnist_cnn/healthy", "mnist_cnn/lr_x30", "mnist_cnn/healthy/cosine", "mnist_cnn/healthy/quick"]


def test_the_test_range_has_other_seeds_and_faults(write: Callable[[str], str]) -> None:
    development, test = (cells_of(load_suite(write(GOOD), is_test)) for is_test in (False, True))
    assert {cell.seed for cell in test} == {10_000, 10_001}
    assert {cell.split for cell in test} == {"test"}
    assert not {cell.key for cell in development} & {cell.key for cell in test}


@pytest.mark.quick("[!f]*")
@pytest.mark.parametrize("name", list_resources(FOLDER))
def test_shipped_suites_name_what_there_is(name: str) -> None:
    assert cells_of(load_suite(name))


def test_an_unknown_suite_lists_what_there_is() -> None:
    with pytest.raises(ConfigError, match=r"no suite 'smok'; did you mean 'smoke'\?; there are: .*smoke"):
        load_suite("smok")


def test_a_policy_of_the_users_own_is_told_from_others_by_its_bytes(
    write: Callable[[str], str], tmp_path: Path
) -> None:
    def keys(suite: Suite) -> dict[str, str]:
        return {f"{cell.scenario.name} {cell.contender} {cell.seed}": cell.key for cell in cells_of(suite)}

    pytest.importorskip("agenttune.bench.contenders.policy")
    mine = tmp_path / "mine_too.yaml"
    mine.write_text("type: noop\n")
    path = write(GOOD.replace("jitter", "./mine_too.yaml"))
    before = keys(load_suite(path))
    mine.write_text("type: noop\ndescription: the same in other words\n")
    after = keys(load_suite(path))
    assert {name for name in before if before[name] != after[name]} == {name for name in before if "mine_too" in name}
