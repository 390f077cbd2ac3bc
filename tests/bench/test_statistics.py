"""What may be said of contenders: intervals, tests, ranks; and that too few seeds say nothing."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agenttune.bench import statistics
from agenttune.bench.metrics import WORST_REGRET, CellFigures, cell_figures
from agenttune.bench.pairs import Pairing, by_key, pairing
from agenttune.bench.standings import Standing, agreements, by_contender, standings, tiles
from agenttune.bench.statistics import holm, improvement, interquartile_mean, least_p, mean, paired_test, profile
from tests.bench.made_results import KINDS, LEVELS, TASKS, result, suite

STRATA = st.lists(st.lists(st.floats(-1, 3), min_size=1, max_size=8), min_size=1, max_size=4)
quick = settings(max_examples=25, deadline=None)


def measured(*args: object, **kwargs: object) -> list[CellFigures]:
    return cell_figures(suite(*args, **kwargs), TASKS, KINDS)  # type: ignore[arg-type]


def standing(found: Sequence[Standing], name: str) -> Standing:
    return next(s for s in found if s.contender == name)


@quick
@given(STRATA)
def test_intervals_hold_their_estimate_and_repeat(strata: list[list[float]]) -> None:
    for statistic in (mean, interquartile_mean, improvement):
        found = statistic(strata)
        assert found == statistic(strata) or math.isnan(found.low)
        if any(len(stratum) > 1 for stratum in strata):
            assert found.low <= found.estimate <= found.high
        else:
            assert math.isnan(found.low), "one seed has no interval"
        assert found.values == sum(map(len, strata))


def test_the_interquartile_mean_leaves_out_the_ends() -> None:
    assert interquartile_mean([[0, 1, 2, 100]]).estimate == 1.5
    assert mean([[0, 1, 2, 100]]).estimate == 25.75
    assert mean([]).values == 0


def test_intervals_are_drawn_within_scenarios() -> None:
    apart = [[0.0] * 6, [1.0] * 6]
    assert mean(apart)[:3] == (0.5, 0.5, 0.5), "seeds do not differ: another draw of seeds gives the same"
    assert mean([[0.0, 1.0] * 6]).low < 0.5


def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    source = random.Random(3)
    found = [mean([[source.gauss(0, 1) for _ in range(20)] for _ in range(2)]) for _ in range(60)]
    held = sum(f.low <= 0 <= f.high for f in found)
    assert 50 <= held <= 60


@quick
@given(STRATA)
def test_profiles_rise_from_nothing_to_all(strata: list[list[float]]) -> None:
    shares = [found.estimate for found in profile(strata, [-2, 0, 1, 2, 4])]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0, 1)


@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1), max_size=8))
def test_holm_raises_and_keeps_the_order(p_values: dict[str, float]) -> None:
    corrected = holm(p_values)
    assert all(p_values[name] <= p <= 1 for name, p in corrected.items())
    ranked = sorted(p_values, key=lambda name: p_values[name])
    assert [corrected[name] for name in ranked] == sorted(corrected.values())


def test_holm_by_its_textbook_example() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == {"a": 0.03, "c": 0.06, "b": 0.06}


def test_paired_tests() -> None:
    assert paired_test([0, 0, 0]) == 1
    assert paired_test([-1, -2, -3, -4, -5, -6]) == pytest.approx(least_p(6))
    assert least_p(6) < statistics.ALPHA < least_p(5)


def test_a_contender_against_itself_shows_no_difference() -> None:
    cells = by_contender(measured())
    for own in cells.values():
        same = pairing(by_key(own), by_key(own))
        assert same.mean[:3] == (0, 0, 0)
        assert same.improvement[:3] == (0.5, 0.5, 0.5)
        assert same.verdict(same.p, 1) == "the same in every pair"
    assert standing(standings(measured()), "idle").verdict == "the same in every pair", "it does as `none` does"


@pytest.mark.parametrize("order", [list(LEVELS), list(reversed(LEVELS)), sorted(LEVELS)])
def test_the_oracle_ranks_first_and_the_bad_one_last(order: list[str]) -> None:
    found = standings(measured({name: LEVELS[name] for name in order}, 8))
    assert [s.contender for s in found][:2] == ["oracle", "rules"]
    assert found[-1].contender == "bad"
    assert standing(found, "bad").harmed.frac == 1
    assert standing(found, "rules").harmed.held == 0
    assert standing(found, "rules").verdict == "better"
    assert standing(found, "bad").verdict == "worse"


def test_noise_is_no_difference() -> None:
    alike = {"none": 1.0, "oracle": 0.2, "jitter": 1.0, "chance": 1.0, "luck": 1.0}
    found = standings(measured(alike, 8))
    assert {standing(found, name).verdict for name in ("chance", "luck")} == {"no difference shown"}


def test_too_few_seeds_are_said_to_be_too_few() -> None:
    found = standings(measured(seeds=3))
    assert {s.verdict for s in found if not s.is_reference} == {"too few seeds for a claim"}
    assert not standing(found, "rules").regret.is_enough
    cells = by_contender(measured(seeds=5, faults=["lr_x30"]))
    one = pairing(by_key(cells["rules"]), by_key(cells["none"]))
    assert one.verdict(one.p, 1) == "too few seeds for a claim", "five pairs cannot say p < 0.05 whatever they are"


def test_failures_stay_in_the_denominator() -> None:
    before = standing(standings(measured()), "rules")
    for failing in (1, 12):
        every = suite()
        names = [i for i, made in enumerate(every) if made.cell.contender == "rules"][::-1]
        for i in names[:failing]:
            cell = every[i].cell
            every[i] = result("rules", seed=cell.seed, fault=cell.scenario.fault, failure="Traceback")
        after = standing(standings(cell_figures(every, TASKS, KINDS)), "rules")
        assert after.failed == (failing, 12)
        assert after.cells == before.cells
        assert after.mean_regret.estimate > before.mean_regret.estimate
        assert after.regret.estimate >= before.regret.estimate
    assert after.regret.estimate == WORST_REGRET


def test_one_scenario_with_many_seeds_makes_no_claim_about_all() -> None:
    cells = suite(seeds=8, faults=["lr_x30"]) + suite(seeds=2, faults=["healthy", "label_noise"])
    found = standings(cell_figures(cells, TASKS, KINDS))
    assert standing(found, "rules").verdict == "too few seeds for a claim"
    assert mean([[1.0, 2.0], [1.0] * 9, [2.0] * 9]).seeds == 9, "one short scenario among many forbids none"


def test_who_harms_beyond_chance_stands_behind_all_others() -> None:
    """However well it does where something is wrong."""
    cells = suite(LEVELS | {"reckless": 0.21}, 6)
    made = [
        result("reckless", 0.9, c.cell.seed, "healthy")
        if (c.cell.contender, c.cell.scenario.fault) == ("reckless", "healthy") else c
        for c in cells
    ]  # fmt: skip
    found = [s.contender for s in standings(cell_figures(made, TASKS, KINDS))]
    assert set(found[-2:]) == {"reckless", "bad"}
    unlucky = [
        result("reckless", 0.9, 0, "healthy")
        if (c.cell.contender, c.cell.scenario.fault, c.cell.seed) == ("reckless", "healthy", 0) else c
        for c in cells
    ]  # fmt: skip
    again = standings(cell_figures(unlucky, TASKS, KINDS))
    assert standing(again, "reckless").harmed == (1, 6)
    assert next(s.contender for s in again if not s.is_reference) == "reckless", "one in six may be chance"


def test_groups_of_scenarios() -> None:
    found = tiles(measured(faults=["healthy", "lr_x30", "label_noise"]), lambda f: f.kind.group)
    assert set(found) == {"healthy", "rate too high", "data"}
    assert found["rate too high"]["oracle"].regret == 0
    assert math.isnan(found["healthy"]["rules"].regret)
    assert found["healthy"]["bad"].change > 0.4


def test_whether_simulators_rank_as_real_networks_do() -> None:
    levels = {"none": 1.0, "oracle": 0.2, "a": 0.4, "b": 0.6, "c": 0.8}
    alike = measured(levels, tasks=["digits", "valley"], faults=["lr_x30", "label_noise"], noise=0)
    assert [(a.fault, round(a.correlation, 6)) for a in agreements(alike)] == [
        ("label_noise", 1),
        ("lr_x30", 1),
        ("all of them", 1),
    ]
    assert agreements(measured(levels)) == [], "one side alone agrees with nobody"


@pytest.mark.parametrize(
    ("few", "many", "verdict"),
    [(-1.0, 0.01, "mixed"), (1.0, -0.01, "mixed"), (-1.0, -0.01, "better"), (1.0, 0.0, "worse")],
)
def test_a_mean_that_most_pairs_speak_against_is_no_verdict(few: float, many: float, verdict: str) -> None:
    differences = [few] * 12 + [many] * 28
    found = Pairing({"one": differences[:20], "two": differences[20:], "three": differences[::-1]})
    assert found.mean.excludes(0)
    assert found.verdict(0.001, 1) == verdict
