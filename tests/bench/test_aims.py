"""The figures that policies are aimed at: by kind of trouble, what healthy runs suffer, what was seen in time."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest

from agenttune.bench.aims import DATA, TOO_HIGH, Aims, aims, trouble
from agenttune.bench.cell import CellResult, Intervention
from agenttune.bench.detection import lost_at
from agenttune.bench.faults import FAULTS
from agenttune.bench.metrics import cell_figures
from agenttune.bench.report import benchmark_page
from agenttune.bench.report.content import Table
from agenttune.bench.standings import Share
from tests.bench.made_results import KINDS, LEVELS, START, TASKS, Found, result, suite


def of(*cells: CellResult) -> Mapping[str, Aims]:
    names = list(dict.fromkeys(cell.cell.contender for cell in cells))
    return {a.contender: a for a in aims(cell_figures(cells, TASKS, KINDS), names)}


def command(kind: str, state: str = "applied", changed: bool | None = None) -> Intervention:
    return Intervention(kind=kind, step=50, state=state, changed=changed)


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_falls_under_an_aim_or_is_healthy(name: str) -> None:
    kind = FAULTS[name]
    expected = {"rate too high": TOO_HIGH, "non-finite": TOO_HIGH, "data": DATA, "overfitting": DATA}
    if kind.group in expected:
        assert trouble(kind) == expected[kind.group]
    assert trouble(FAULTS["no_warmup"]) == TOO_HIGH, "as the issue counts it"


def test_regret_by_trouble_and_difference_where_data_are_faulty() -> None:
    found = of(*suite(LEVELS | {"rules": 0.6}, 6, ["healthy", "lr_x30", "label_noise"], noise=0.0))["rules"]
    assert found.by_trouble[TOO_HIGH].estimate == pytest.approx(0.5)
    assert found.mean_regret.estimate == pytest.approx(0.5)
    assert found.data_change.estimate == pytest.approx(-0.4), "1.0 becomes 0.6"
    assert found.data_worse == Share(0, 6)
    bad = of(*suite(faults=["healthy", "label_noise"], noise=0.0))["bad"]
    assert bad.data_worse == Share(6, 6)
    assert bad.healthy_worse == Share(6, 6)
    assert bad.healthy_change.estimate == pytest.approx(0.5)


def test_healthy_runs_count_what_changed_them_and_what_ends_clearly_worse() -> None:
    ends = {0: 1.005, 1: 1.02, 2: 0.9}
    cells = []
    for seed, factor in ends.items():
        cells += [result("none", 1.0, seed, "healthy"), result("mine", factor, seed, "healthy")]
    found = of(*cells)["mine"]
    assert found.healthy_worse == Share(1, 3), "one in a hundred is where it begins, whatever the noise"
    assert found.healthy_change.estimate == pytest.approx((0.005 / 1.005 + 0.02 / 1.02 - 0.1) / 3)

    looks = [command("probe", changed=False), command("do_evaluate", changed=False), command("save_checkpoint")]
    refused = [command("update_optimizer", "rejected"), command("update_optimizer", "expired")]
    changes = [
        command("update_optimizer", "reverted", True),
        command("probe", "kept", True),
        command("load_checkpoint"),
    ]
    idle = result("mine", seed=0, fault="healthy", interventions=[*looks, *refused])
    busy = result("mine", seed=1, fault="healthy", interventions=[*looks, *changes])
    elsewhere = result("mine", seed=1, fault="lr_x30", interventions=changes)
    found = of(idle, busy, elsewhere)["mine"]
    assert (found.healthy_changes, found.healthy_changed) == (3, Share(1, 2))


def test_steps_of_trials_and_steps_undone_are_told_apart() -> None:
    cells = [result("mine", fault="healthy", steps_before=20), result("mine", fault="lr_x30", steps_before=60)]
    found = of(*cells)["mine"]
    assert found.trial_frac == pytest.approx(0.2)
    assert found.healthy_trial_frac == pytest.approx(0.1)

    went_back = result("mine")
    assert went_back.outcome.trained is not None
    trained = went_back.outcome.trained.model_copy(update={"total_steps": 250, "probe_steps": 20})
    went_back = went_back.model_copy(update={"outcome": went_back.outcome.model_copy(update={"trained": trained})})
    found = of(went_back)["mine"]
    assert found.trial_frac == pytest.approx(0.1)
    assert found.repeated_frac == pytest.approx(0.15)


def test_a_training_is_lost_when_its_loss_stays_at_twice_the_start() -> None:
    def losses(*parts: tuple[int, float]) -> list[tuple[int, int, float]]:
        values = [value for count, value in parts for _ in range(count)]
        return [(step, step, value) for step, value in enumerate(values, 1)]

    assert lost_at(losses((50, 1.0), (50, 5.0)), 0, 2.0) == 60
    assert lost_at(losses((50, 1.0), (9, 5.0), (1, 1.0), (9, 5.0)), 0, 2.0) is None, "it came back"
    assert lost_at(losses((50, 1.0), (50, math.nan)), 0, 2.0) == 60
    assert lost_at(losses((100, 5.0)), 40, 2.0) == 50, "what was before the fault is not its doing"
    assert lost_at(losses((100, 3.9)), 0, 2.0) is None
    thinned = losses((50, 1.0), (50, 5.0))[::4]
    assert lost_at(thinned, 0, 2.0) == 65, "of every fourth step"


def test_found_in_time_or_too_late() -> None:
    def found(at: int, level: float) -> Share:
        made = result("mine", findings=[("divergence", at, "it grew")], onset=40)
        assert made.outcome.trained is not None
        losses = [(step, step, 1.0 if step <= 60 else level) for step in range(1, 201)]
        trained = made.outcome.trained.model_copy(update={"losses": losses})
        made = made.model_copy(update={"outcome": made.outcome.model_copy(update={"trained": trained})})
        return of(made)["mine"].found[TOO_HIGH]

    assert found(65, 2 * START) == Share(1, 1)
    assert found(71, 2 * START) == Share(0, 1)
    assert found(190, START) == Share(1, 1), "it is never lost: any time will do"
    missed: list[Found] = [("plateau", 65, "", "info")]
    assert of(result("mine", findings=missed))["mine"].found[TOO_HIGH] == Share(0, 1), "no alarm"
    assert of(result("recipe"))["recipe"].found[TOO_HIGH].of == 0, "who has no detectors is not asked"


def test_critical_findings_of_healthy_steps() -> None:
    findings: list[Found] = [("spike", 20, "", "critical"), ("spike", 30, "", "warning"), ("spike", 90, "", "critical")]
    faulty = result("mine", findings=findings, onset=50)
    healthy = result("mine", findings=findings[:2], fault="healthy")
    assert of(faulty, healthy)["mine"].critical_per_10000 == pytest.approx(10_000 * 2 / 250)


def test_tokens_are_told_by_the_call() -> None:
    talks = [result("mine", seed=seed, tokens_in=2000, tokens_out=100, calls=calls) for seed, calls in ((0, 1), (1, 2))]
    assert of(*talks)["mine"].tokens_per_call == pytest.approx(4200 / 3)
    assert math.isnan(of(result("rules"))["rules"].tokens_per_call)


def test_the_report_has_them_beside_the_aims() -> None:
    page = benchmark_page(suite(faults=["healthy", "lr_x30", "label_noise"]), "t", "", TASKS, KINDS)
    section = next(section for section in page.sections if section.title == "Aims")
    glance, table = (block for block in section.blocks if isinstance(block, Table))
    assert table.columns[:2] == ("figure", "aim")
    assert set(table.columns[2:]) == {"none", "rules", "idle", "bad"}, "without references, but for doing nothing"
    rows = {row[0]: row for row in table.rows}
    high = rows["rate too high, no warm-up, NaN: regret"]
    assert high[1] == "0.2"
    assert str(high[table.columns.index("rules")]).startswith("0.25 [")
    assert str(rows["healthy: changes made, in runs"][table.columns.index("rules")]) == "0 in 0 of 6"
    assert [row[0] for row in glance.rows] == list(table.columns[2:]), "in the order of the leaderboard"
