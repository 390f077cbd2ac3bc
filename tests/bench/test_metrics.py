"""The figures of a cell: what is measured against doing nothing and the best rate, and what a failure counts as."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agenttune.bench import metrics
from agenttune.bench.cell import CellResult, Intervention
from agenttune.bench.metrics import CellFigures, cell_figures, difference
from agenttune.bench.noise import ENOUGH_PAIRS, GUESSED_BAND, NoiseBand, noise_bands
from agenttune.bench.training import Trained
from agenttune.errors import ConfigError
from tests.bench.made_results import KINDS, START, TASKS, Found, result

NAN = math.nan


def figures(*results: CellResult) -> dict[str, CellFigures]:
    """By contender, all of one seed."""
    return {f.contender: f for f in cell_figures(results, TASKS, KINDS)}


def three(final: float, **more: float) -> CellFigures:
    """A contender beside `none` at 1.2 and the oracle at 0.2."""
    return figures(result("none", 1.2), result("oracle", 0.2), result("mine", final, **more))["mine"]  # type: ignore[arg-type]


def test_regret_is_nothing_done_to_best_rate() -> None:
    assert three(0.7).regret == pytest.approx(0.5)
    assert three(1.2).regret == pytest.approx(1.0)
    assert three(0.2).regret == pytest.approx(0.0)
    assert three(0.1).regret == pytest.approx(-0.1), "better than the best constant rate"
    assert three(100.0).regret == metrics.WORST_REGRET, "one cell decides no mean"
    assert three(0.7).log_regret == pytest.approx(math.log(3.5))


def test_a_reward_counts_the_other_way_round() -> None:
    found = figures(
        result("none", 50.0, task="pole"), result("oracle", 150.0, task="pole"), result("mine", 100.0, task="pole")
    )
    assert found["mine"].regret == pytest.approx(0.5)
    assert found["mine"].log_regret is None, "only of a positive loss"
    assert found["mine"].change == pytest.approx(-0.5)
    assert found["oracle"].steps_to_target == 200
    assert found["mine"].steps_to_target == metrics.MISSED * 200


def test_where_nothing_was_damaged_there_is_no_regret() -> None:
    found = figures(result("none", 0.205), result("oracle", 0.2), result("mine", 0.1))
    assert found["mine"].regret is None
    assert found["mine"].no_regret == "no damage done"
    assert found["mine"].change == pytest.approx(-0.105 / 0.205), "and the raw figures count"
    healthy = figures(
        *(result(name, value, fault="healthy") for name, value in (("none", 0.3), ("oracle", 0.2), ("mine", 0.9)))
    )
    assert healthy["mine"].no_regret == "no damage done"
    assert healthy["mine"].harmed
    assert "oracle" in figures(result("none", 1.0), result("mine", 0.5))["mine"].no_regret


def test_a_failed_cell_is_the_worst_there_is() -> None:
    found = figures(
        result("none", NAN), result("oracle", 0.2), result("mine", 0.5, failure="Traceback"), result("other", 4.0)
    )
    assert found["mine"].regret == metrics.WORST_REGRET
    assert math.isnan(found["mine"].value)
    ceiling = START + metrics.CEILING * (START - 0.2)
    assert found["mine"].loss == pytest.approx(ceiling), "in means of raw values"
    assert found["none"].regret == pytest.approx(1.0), "what diverges untouched is doing nothing, not a failure"
    assert found["none"].loss == pytest.approx(ceiling)
    assert found["mine"].is_worse
    assert found["other"].change == -2.0


def test_a_divergence_that_the_contender_brought_about_is_the_worst() -> None:
    assert three(NAN).regret == metrics.WORST_REGRET
    assert three(NAN).change == 2.0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(0.01, 50), min_size=3, max_size=6),
    st.sampled_from(["healthy", "lr_x30"]),
    st.sampled_from(["digits", "pole"]),
    st.booleans(),
)
def test_a_failure_never_improves_a_score(finals: list[float], fault: str, task: str, diverges: bool) -> None:
    names = ["none", "oracle", "mine", "a", "b", "c"]
    cells = [result(name, final, fault=fault, task=task) for name, final in zip(names, finals, strict=False)]
    before = figures(*cells)["mine"]
    spoilt = result("mine", NAN, fault=fault, task=task, failure="" if diverges else "it raised")
    after = figures(*[spoilt if c.cell.contender == "mine" else c for c in cells])["mine"]
    assert after.change is not None
    assert before.change is not None
    assert after.change >= before.change
    assert before.regret is None or (after.regret is not None and after.regret >= before.regret)
    assert after.is_worse or not before.is_worse
    assert after.steps_to_target >= before.steps_to_target
    assert after.area is not None
    assert before.area is not None
    assert after.area >= before.area
    assert after.crashed


@given(st.floats(0.01, START), st.floats(0.01, START))
def test_a_difference_turns_round_with_its_pair(first: float, second: float) -> None:
    found = figures(result("a", first), result("b", second))
    assert difference(found["a"], found["b"]) == -difference(found["b"], found["a"])
    assert (difference(found["a"], found["b"]) < 0) == (first < second)


def test_the_noise_band_is_measured_where_it_can_be() -> None:
    cells = [
        result(name, 1.0 + 0.05 * (name == "jitter"), seed, "healthy")
        for name in ("none", "jitter")
        for seed in range(4)
    ]
    assert noise_bands(cells, TASKS, KINDS) == {"digits": NoiseBand(GUESSED_BAND, (1.05 - 1) / 1.05, 4)}
    chaos = [result("none", 1.0), result("jitter", 9.0)]
    assert noise_bands([*cells, *chaos], TASKS, KINDS) == noise_bands(cells, TASKS, KINDS), "of healthy runs alone"
    assert noise_bands(cells[:4], TASKS, KINDS) == {}, "no jitter, no band"


def test_the_noise_band_holds_all_but_one_in_twenty_of_what_was_measured() -> None:
    """Of few pairs a quantile between two of them would leave more outside than it says."""
    source = random.Random(2)
    outside = 0
    for _ in range(60):
        ends = [1 + abs(source.gauss(0, 0.05)) for _ in range(ENOUGH_PAIRS + 1)]
        pairs = [result("none", 1.0, seed, "healthy") for seed in range(ENOUGH_PAIRS)]
        pairs += [result("jitter", end, seed, "healthy") for seed, end in enumerate(ends[1:])]
        band = noise_bands(pairs, TASKS, KINDS)["digits"]
        assert band.pairs == ENOUGH_PAIRS
        assert band.frac == band.measured
        outside += 1 - 1 / ends[0] > band.frac
    assert outside <= 8, "one in ten, of so few trials"


@given(st.lists(st.floats(0.2, 2.0), min_size=5, max_size=8))
def test_what_measured_the_noise_is_no_harm_itself(ends: list[float]) -> None:
    """Of few pairs the band holds all of them: `jitter` is harmed nowhere."""
    cells = [result("none", 0.5, seed, "healthy") for seed in range(len(ends))]
    cells += [result("jitter", end, seed, "healthy") for seed, end in enumerate(ends)]
    assert [f.harmed for f in cell_figures(cells, TASKS, KINDS)] == [False] * len(cells)


@pytest.mark.parametrize(("final", "is_harm"), [(0.2, False), (0.21, False), (0.3, True), (NAN, True)])
def test_harm_is_worse_than_nothing_beyond_the_noise(final: float, is_harm: bool) -> None:
    cells = [result("none", 0.2, fault="healthy"), result("jitter", 0.204, fault="healthy")]
    often = [
        result(name, value, seed, "healthy") for seed in range(1, 30) for name, value in (("none", 1), ("jitter", 1.02))
    ]
    found = figures(*often, *cells, result("mine", final, fault="healthy"))
    assert found["mine"].harmed is (is_harm or final == 0.21)
    guessed = figures(cells[0], result("mine", final, fault="healthy"))
    assert guessed["mine"].harmed is is_harm
    assert figures(result("none", 0.2), result("mine", final))["mine"].harmed is None, "a fault is no healthy run"


def test_anytime_area_and_time_to_target_count_what_came_before() -> None:
    cells = [result("none", 1.2), result("oracle", 0.2)]
    soon = result("soon", 0.2, values=[0.2, 0.2, 0.2])
    late = result("late", 0.2, values=[START, START, START])
    found = figures(*cells, soon, late)
    assert found["soon"].area == pytest.approx(0.25), "until the first evaluation it stands at the start"
    assert found["late"].area == pytest.approx(1.0)
    assert (found["soon"].steps_to_target, found["late"].steps_to_target) == (50, 200)
    piloted = result("piloted", 0.2, values=[0.2, 0.2, 0.2], steps_before=100, seconds_before=3.0)
    after = figures(*cells, piloted)["piloted"]
    assert after.steps_to_target == 150
    assert after.reached is not None
    assert after.reached.seconds == pytest.approx(3.5)
    assert after.extra_steps == 100


def test_value_at_equal_wall_time() -> None:
    waits = result("waits", 0.2, values=[1.2, 1.0, 0.8], seconds=8.0)
    found = figures(result("none", 1.2, seconds=2.0), result("oracle", 0.2), waits)
    assert found["waits"].equal_time == pytest.approx(1.2), "its first quarter is over when `none` ends"
    assert found["none"].equal_time == pytest.approx(1.2)


@pytest.mark.parametrize(
    ("values", "final", "crashed", "recovered"),
    [
        ([2.0, 1.0, 0.5], 0.4, False, False),
        ([1.0, NAN, 1.1], 0.9, True, True),
        ([1.0, NAN, NAN], NAN, True, False),
        ([1.0, 0.5, 2.2], 0.5, True, True),
        ([1.0, 0.5, 2.2], 2.0, True, False),
        ([9.0, 5.0, 2.4], 1.0, True, True),
        ([9.0, 5.0, 2.4], 2.4, True, False),
    ],
)
def test_crash_and_recovery(values: list[float], final: float, crashed: bool, recovered: bool) -> None:
    found = figures(result("mine", final, values=values))["mine"]
    assert (found.crashed, found.recovered) == (crashed, recovered)


def test_detection_counts_from_the_onset() -> None:
    def looked(*findings: Found, fault: str = "lr_x30", **more: object) -> CellFigures:
        return figures(result("mine", findings=findings, fault=fault, onset=60, **more))["mine"]  # type: ignore[arg-type]

    found = looked(("divergence", 20, "early"), ("plateau", 90, "it stands"), ("divergence", 120, "again")).detection
    assert (found.is_asked, found.steps, found.false, found.healthy_steps) == (True, 30, 1, 60)
    assert looked(("spike", 90, "no kind that counts")).detection.steps is None
    healthy = looked(("spike", 90, "a spike"), fault="healthy").detection
    assert (healthy.is_asked, healthy.false, healthy.healthy_steps) == (False, 1, 200)
    cells = [result("mine", seed=1, findings=[("plateau", 90, "")]), result("mine", failure="it raised")]
    missed = cell_figures(cells, TASKS, KINDS)[1].detection
    assert (missed.is_asked, missed.steps) == (True, None), "a failure stays in the denominator"
    assert not figures(result("recipe", onset=60))["recipe"].detection.is_asked, "who does not look is not asked"
    quiet = looked(("plateau", 30, "early", "info"), ("plateau", 70, "it stands", "info"), ("plateau", 90, "still"))
    assert (quiet.detection.steps, quiet.detection.false) == (30, 0), "what finds is as severe as what cries wolf"
    told = looked(("plateau", 30, "early", "info"), ("plateau", 70, "it stands", "info")).detection
    assert (told.steps, told.is_told, told.false, told.false_told) == (None, True, 0, 1)


def test_the_layer_at_fault_has_to_be_named_whole() -> None:
    def named(words: str) -> bool | None:
        made = result("mine", fault="one_layer", findings=[("layer_unstable", 50, words)], fault_layer="blocks.1")
        return figures(made)["mine"].detection.layer_named

    assert named("gradient of blocks.1.weight grew tenfold")
    assert not named("gradient of blocks.10 grew tenfold")
    command = Intervention(kind="freeze_layer", step=60, state="applied", words="blocks.1: unstable")
    by_command = result("mine", fault="one_layer", interventions=[command], fault_layer="blocks.1", run_id="run")
    assert figures(by_command)["mine"].detection.layer_named
    assert figures(result("mine", findings=[("plateau", 50, "blocks.1")]))["mine"].detection.layer_named is None


def test_what_is_found_at_the_very_step_of_the_fault_and_gone_back_from_counts() -> None:
    """Training first had made 100 steps at 100 total ones, though it came by that step again."""
    trained = Trained(final=1.0, losses=[(99, 99, 1.0), (100, 100, 9.0), (101, 85, 1.0), (117, 101, 1.0)])
    assert [trained.total_at(step) for step in (99, 100, 101)] == [99, 100, 117]


def test_interventions_by_what_became_of_them() -> None:
    states = ["applied", "kept", "reverted", "rejected", "expired", "superseded", "failed"]
    asked = [Intervention(kind="update_optimizer", step=i, state=state) for i, state in enumerate(states)]
    found = figures(result("mine", interventions=asked))["mine"]
    assert (found.taken, found.refused, found.expired, found.states["reverted"]) == (3, 1, 2, 1)


def test_results_of_a_task_that_is_not_known_are_named() -> None:
    with pytest.raises(ConfigError, match=r"the task 'digits'.*there are: pole"):
        cell_figures([result("mine")], {"pole": TASKS["pole"]}, KINDS)


def test_how_far_a_training_diverged_decides_no_mean() -> None:
    found = figures(result("none", 1.2), result("oracle", 0.2), result("mine", 1e300), result("other", NAN))
    assert found["mine"].value == 1e300
    assert found["mine"].loss == found["other"].loss == pytest.approx(START + metrics.CEILING * (START - 0.2))


MANY: list[list[float]] = [[1e300, 1e300], [NAN, NAN], [1e-9, 1e-9], [7, 9]]


@pytest.mark.parametrize("task", ["digits", "pole", "unknown"])
@pytest.mark.parametrize("fault", ["healthy", "lr_x30"])
def test_who_else_takes_part_changes_nobodys_figures(task: str, fault: str) -> None:
    """Neither a contender that diverges nor one that is far better, with or without a start that is known."""
    tasks = TASKS | {"unknown": TASKS["digits"].model_copy(update={"name": "unknown", "chance": None})}

    def made(name: str, values: list[float], seed: int = 0) -> CellResult:
        found = result(name, values[-1], seed, fault, task="digits" if task == "unknown" else task, values=values[:-1])
        scenario = found.cell.scenario.model_copy(update={"task": task})
        return found.model_copy(update={"cell": found.cell.model_copy(update={"scenario": scenario})})

    own = [
        made(name, [value * 3, value * 2, value], seed)
        for seed in range(3)
        for name, value in (("none", 1.2), ("jitter", 1.21), ("oracle", 0.2), ("mine", 0.7), ("ruined", NAN))
    ]
    before = cell_figures(own, tasks, KINDS)
    others = [made(f"other {i}", values) for i, values in enumerate(MANY)]
    after = cell_figures([*others, *own], tasks, KINDS)[len(others) :]
    assert [repr(f) for f in after] == [repr(f) for f in before]


def test_a_training_starts_where_none_started() -> None:
    began = result("none", 1.2)
    assert began.outcome.trained is not None
    trained = began.outcome.trained.model_copy(update={"start": 1.9})
    none = began.model_copy(update={"outcome": began.outcome.model_copy(update={"trained": trained})})
    found = figures(none, result("oracle", 0.2), result("mine", 0.7))
    assert {f.start for f in found.values()} == {1.9}
    assert {f.start for f in figures(began, result("mine", 0.7)).values()} == {START}, "of a result before there was it"


def test_a_copy_of_none_has_the_regret_of_none() -> None:
    """Whether damage was done is not decided by the luck of the run that is measured by."""
    source = random.Random(1)
    cells = []
    for seed in range(40):
        cells += [result(name, 0.3 * math.exp(source.gauss(0, 0.3)), seed) for name in ("none", "copy")]
        cells.append(result("oracle", 0.2 * math.exp(source.gauss(0, 0.05)), seed))
    regrets = [f.regret for f in cell_figures(cells, TASKS, KINDS) if f.contender == "copy"]
    known = [regret for regret in regrets if regret is not None]
    assert len(known) == 40, "all seeds of a scenario, or none of them"
    assert 0.8 < sum(known) / 40 < 1.4


def test_a_failure_where_nothing_was_damaged_has_no_regret_and_is_harm() -> None:
    found = figures(
        result("none", 0.2, fault="healthy"), result("oracle", 0.2, fault="healthy"),
        result("mine", fault="healthy", failure="it raised"),
    )  # fmt: skip
    assert found["mine"].regret is None, "others have none there either"
    assert found["mine"].harmed
