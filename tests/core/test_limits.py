"""Limits hold in every parameter group, for the whole course of the rate, from and to zero, whatever is touched."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agenttune.config import BudgetSettings, GateSettings
from agenttune.errors import CommandError
from agenttune.gate import CommandHistory, Gate, Moment, guards_nothing
from agenttune.gate.change_factors import differences_of, factor_of, value_after, value_before
from agenttune.protocol.commands import parse_command
from agenttune.protocol.deadlines import Instant
from agenttune.protocol.lr_course import LrCourse, Track
from agenttune.protocol.lr_plans import make_plan, plan_text, planned_factor
from agenttune.protocol.proposals import Ack, ApprovalRequest, Author, Change, CommandRecord, State, Verdict
from agenttune.protocol.run_info import KnobState, RunInfo
from tests.core.conftest import AGENT, APPROVED, OPERATOR, propose

STEPS = 100
Factor = Callable[[float], float]


def linear(t: float) -> float:
    return 1 - t / STEPS


def warm(t: float) -> float:
    return min(1.0, (t + 1) / 50)


def flat(t: float) -> float:
    return 1.0


def run(
    base: list[float],
    step: int = 0,
    shape: Factor = flat,
    before: Factor | None = None,
    *,
    scaled: float = 1.0,
    **knobs: Any,
) -> RunInfo:
    """A run of 100 steps whose groups follow one shape; `before`: that of before the plan in force."""
    told = list(range(step, STEPS + 1))

    def course(factor: Factor, by: float = 1.0) -> LrCourse:
        rates = [base[0] * by * factor(t) for t in told]
        shares = [rate / base[0] for rate in base]
        track = Track(groups=list(range(len(base))), shares=shares, rates=rates, lowest=rates, highest=rates)
        return LrCourse(kind="test", text="as it was", steps=told, tracks=[track], can_be_planned=True)

    found = course(shape)
    if before is not None:
        found = found.model_copy(update={"before": course(before, scaled).model_copy(update={"is_own": False})})
    rates = [rate * shape(step) for rate in base]
    lr = KnobState(name="lr", base=base[0], effective=rates[0], groups=rates, base_groups=base, minimum=0, maximum=100)
    others = [
        KnobState(name=name, effective=value[0] if isinstance(value, list) else value, groups=value)
        if isinstance(value, list)
        else KnobState(name=name, effective=value)
        for name, value in knobs.items()
    ]
    return RunInfo(
        run_id="r",
        name="r",
        status="running",
        created_at_s=0.0,
        step=step,
        max_steps=STEPS,
        knobs=[lr, *others],
        schedule=found,
    )


def judge(info: RunInfo, proposal: Any, history: list[CommandRecord] | None = None, **settings: Any) -> Verdict:
    gate = Gate(GateSettings.model_validate(settings), BudgetSettings())
    ruling = gate.judge(proposal, Moment(info, Instant(0.0)), CommandHistory(history or []))
    assert isinstance(ruling, Verdict), "nobody is to be asked here"
    return ruling


def passes(info: RunInfo, proposal: Any, history: list[CommandRecord] | None = None, **settings: Any) -> bool:
    return judge(info, proposal, history, **settings).decision == "approved"


def done(step: int, *changes: Change, **command: Any) -> CommandRecord:
    return CommandRecord(
        proposal=propose(**command),
        state=State.APPLIED,
        verdict=APPROVED,
        ack=Ack(outcome="applied", step=step, changes=list(changes)),
        submitted_seq=1,
        submitted_step=step,
    )


# -- parameter groups --------------------------------------------------------------------------------------------------


def test_a_group_is_compared_with_its_own_value() -> None:
    """Seen before: 1e-5 -> 0.02 in group 1 was compared with the 0.01 of group 0, and auto-approved."""
    info = run([0.01, 1e-5])
    asked = propose(lr=0.02, param_group=1)
    verdict = judge(info, asked, max_change_factor=2)
    assert verdict.decided_by == "guardrail:change_factor"
    assert verdict.nearest_allowed == pytest.approx({"lr": 2e-5})
    assert "group 1" in verdict.reason
    rules = [{"approvers": ["auto"], "knobs": ["lr"], "max_factor": 2}]
    assert judge(info, asked, approval=rules).decided_by == "rule:none"
    assert factor_of(asked.command, info) == pytest.approx(2000)


def test_groups_that_follow_the_first_keep_within_bounds() -> None:
    """Seen before: after group 1 had gone up alone, a change of the first took it to 100 under a bound of 1."""
    info = run([0.01, 0.5])
    verdict = judge(info, propose(lr=1.0), bounds={"lr": [1e-6, 1]})
    assert verdict.decided_by == "guardrail:bounds"
    assert verdict.nearest_allowed == pytest.approx({"lr": 0.02})
    assert passes(info, propose(lr=0.02), bounds={"lr": [1e-6, 1]})


def test_a_group_that_is_outside_already_may_not_go_further() -> None:
    info = run([0.01, 1e-8])
    assert passes(info, propose(lr=0.02), bounds={"lr": [1e-6, 1]})
    assert not passes(info, propose(lr=0.005), bounds={"lr": [1e-6, 1]})


def test_other_values_are_compared_group_by_group_and_exempt_groups_left_out() -> None:
    info = run([1e-3, 1e-3], weight_decay=[0.1, 0.001])
    verdict = judge(info, propose(weight_decay=0.05), max_change_factor=10)
    assert verdict.nearest_allowed == pytest.approx({"weight_decay": 0.01})
    knobs = [k.model_copy(update={"exempt_groups": [1]}) if k.name == "weight_decay" else k for k in info.knobs]
    assert passes(info.model_copy(update={"knobs": knobs}), propose(weight_decay=0.05), max_change_factor=10)


def test_bounds_and_factors_reach_into_lists() -> None:
    """Seen before: `bounds: {betas: ...}` was taken, and protected nothing."""
    info = run([1e-3], betas=[[0.9, 0.999]])
    verdict = judge(info, propose(betas=[0.5, 0.999]), bounds={"betas": [0.8, 0.9999]})
    assert verdict.nearest_allowed == {"betas": [0.8, 0.999]}
    assert not passes(info, propose(betas=[0.9, 0.1]), max_change_factor=2)


def test_what_conditions_and_people_are_told_is_of_the_group_that_is_written() -> None:
    info = run([0.01, 1e-5])
    one, both = propose(lr=0.02, param_group=1).command, propose(lr=0.02).command
    assert (value_before("lr", one, info), value_after("lr", one, info)) == (1e-5, 0.02)
    assert [(d.name, d.before, d.after) for d in differences_of(one, info)] == [("lr (group 1)", 1e-5, 0.02)]
    assert [d.name for d in differences_of(both, info)] == ["lr (group 0)", "lr (group 1)"]
    alike = run([0.01, 0.01])
    assert [d.name for d in differences_of(both, alike)] == ["lr"]


# -- the course --------------------------------------------------------------------------------------------------------


def test_a_rate_set_in_a_warm_up_is_judged_by_the_peak_that_it_means() -> None:
    info = run([1e-3], shape=warm)
    verdict = judge(info, propose(lr=2e-4), bounds={"lr": [1e-7, 5e-3]})
    assert verdict.decided_by == "guardrail:bounds"
    assert verdict.nearest_allowed == pytest.approx({"lr": 1e-4})
    assert passes(info, propose(lr=1e-4), bounds={"lr": [1e-7, 5e-3]})


@pytest.mark.parametrize("limits", [{"bounds": {"lr": [1e-6, 1]}}, {"max_change_factor": 10}])
def test_a_plan_that_is_at_zero_long_before_the_end_is_refused(limits: dict[str, Any]) -> None:
    """Seen before: a rate of 0 within 40 steps, whatever the limits."""
    info = run([1e-3, 1e-4], step=20, shape=linear)
    asked = propose("update_schedule", shape="linear", end_step=60)
    verdict = judge(info, asked, **limits)
    assert verdict.decision == "rejected"
    nearest = verdict.nearest_allowed
    assert nearest is not None
    assert passes(info, propose("update_schedule", shape="linear", end_step=60, **nearest), **limits)


@pytest.mark.parametrize("shape", ["linear", "cosine", "wsd", "constant"])
@pytest.mark.parametrize("own", [flat, linear])
def test_a_decay_to_the_end_of_the_run_is_no_way_around_a_limit(shape: str, own: Factor) -> None:
    info = run([1e-3, 1e-4], step=20, shape=own)
    limits: dict[str, Any] = {"bounds": {"lr": [1e-6, 1]}, "max_change_factor": 10}
    assert passes(info, propose("update_schedule", shape=shape), **limits)
    assert not passes(info, propose("update_schedule", shape=shape, peak_lr=0.02), **limits)


def test_a_short_warm_up_may_begin_at_nothing_and_a_long_one_may_not() -> None:
    info = run([1e-3])
    limits: dict[str, Any] = {"max_change_factor": 4}
    assert passes(info, propose("update_schedule", shape="linear", warmup_steps=5), **limits)
    verdict = judge(info, propose("update_schedule", shape="linear", warmup_steps=80), **limits)
    assert verdict.decided_by == "guardrail:change_factor"
    nearest = verdict.nearest_allowed or {}
    assert 0 < nearest["start_lr"] <= 2.5e-4
    assert passes(info, propose("update_schedule", shape="linear", warmup_steps=80, **nearest), **limits)


def test_previous_is_judged_by_what_it_brings_back() -> None:
    """Seen before: `previous` as eight times the rate, under a factor of 2 and in a cooldown."""
    info = run([1e-3], step=10, before=flat, scaled=8.0)
    asked = propose("update_schedule", shape="previous")
    assert judge(info, asked, max_change_factor=2).decided_by == "guardrail:change_factor"
    assert judge(info, asked, bounds={"lr": [1e-6, 5e-3]}).decided_by == "guardrail:bounds"
    assert passes(info, asked, max_change_factor=10)
    assert factor_of(asked.command, info) == pytest.approx(8)


def test_what_the_run_was_started_with_may_come_back_whatever_the_bounds() -> None:
    """Else probation could not undo a plan."""
    info = run([1e-3], step=10, before=linear, scaled=8.0)
    assert info.schedule is not None
    assert info.schedule.before is not None
    own = info.schedule.before.model_copy(update={"is_own": True})
    info = info.model_copy(update={"schedule": info.schedule.model_copy(update={"before": own})})
    asked = propose("update_schedule", author=OPERATOR, shape="previous")
    assert passes(info, asked, bounds={"lr": [1e-6, 5e-3]})


def test_a_schedule_rests_in_a_cooldown() -> None:
    info = run([1e-3], step=10, before=flat)
    history = [done(5, lr=1e-3)]
    for shape in ("constant", "previous", "linear"):
        verdict = judge(info, propose("update_schedule", shape=shape), history, cooldown_steps=20)
        assert verdict.decided_by == "guardrail:cooldown"


def test_a_probe_is_judged_by_the_course_of_each_candidate() -> None:
    info = run([1e-3], step=10)
    bad = {"kind": "update_schedule", "shape": "linear", "end_step": 50}
    asked = propose("probe", candidates=[{"kind": "update_optimizer", "lr": 2e-3}, bad], steps=2)
    verdict = judge(info, asked, bounds={"lr": [1e-6, 1]})
    assert "candidate 1" in verdict.reason
    nearest = verdict.nearest_allowed or {}
    assert passes(info, propose("probe", steps=2, **nearest), bounds={"lr": [1e-6, 1]})


def test_people_are_shown_the_course() -> None:
    rules = [{"approvers": ["human"]}]
    gate = Gate(GateSettings.model_validate({"approval": rules}), BudgetSettings())
    asked = propose("update_schedule", shape="cosine", peak_lr=2e-3, final_lr=1e-5)
    ruling = gate.judge(asked, Moment(run([1e-3], step=10), Instant(0.0)), CommandHistory())
    assert isinstance(ruling, ApprovalRequest)
    schedule = ruling.differences[0]
    assert (schedule.name, schedule.before) == ("schedule", "as it was")
    assert schedule.after == "cosine from 0.002 at step 10 to 1e-05 at step 100"


def test_the_factor_of_a_plan_counts_what_would_have_come() -> None:
    info = run([1e-3], step=10, shape=linear)
    assert factor_of(propose("update_schedule", shape="linear").command, info) == pytest.approx(1)
    assert factor_of(propose("update_schedule", shape="constant").command, info) == math.inf
    assert value_after("lr", propose("update_schedule", shape="constant", peak_lr=4e-3).command, info) == 4e-3


def test_of_a_plan_that_rises_the_end_is_lowered() -> None:
    info = run([1e-3])
    asked = propose("update_schedule", shape="linear", peak_lr=5e-4, final_lr=1.0)
    assert (judge(info, asked, max_change_factor=10).nearest_allowed or {}).keys() == {"final_lr"}


# -- windows -----------------------------------------------------------------------------------------------------------


def rate_change(low: float, high: float, groups: int = 1, **fields: Any) -> Change:
    values = {"name": "lr", "previous": 1e-3, "requested": 1e-3, "effective": 1e-3}
    return Change.model_validate({**values, "factors": [(low, high)] * groups, **fields})


def test_a_window_counts_base_and_effective_rates_alike() -> None:
    """An effective rate of before was compared with an asked base: half-way down a schedule they differ twofold."""
    info = run([1e-3], step=50, shape=linear)
    history = [done(45, rate_change(1.0, 1.0, previous=5.5e-4, previous_base=1e-3), lr=1e-3, lr_sets="base")]
    window = {"window": {"steps": 20, "max_change_factor": 1.5}}
    assert passes(info, propose(lr=1.2e-3, lr_sets="base"), history, **window)
    assert passes(info, propose(lr=6e-4), history, **window)
    assert not passes(info, propose(lr=1.6e-3, lr_sets="base"), history, **window)


def test_a_window_holds_for_each_group_and_for_plans() -> None:
    window = {"window": {"steps": 20, "max_change_factor": 3}}
    alone = Change.model_validate(
        {"name": "lr", "previous": 1, "requested": 1, "effective": 1, "factors": [(1, 1), (2, 2)]}
    )
    info, history = run([1e-3, 1e-3], step=10), [done(5, alone, lr=2e-3, param_group=1)]
    assert passes(info, propose(lr=2e-3, param_group=0), history, **window)
    assert judge(info, propose(lr=2e-3), history, **window).nearest_allowed == pytest.approx({"lr": 1.5e-3})
    verdict = judge(info, propose("update_schedule", shape="constant", peak_lr=2e-3), history, **window)
    assert verdict.decided_by == "guardrail:window"
    assert verdict.nearest_allowed == pytest.approx({"peak_lr": 1.5e-3})


# -- zero --------------------------------------------------------------------------------------------------------------


def zeroed(name: str, before: float) -> CommandRecord:
    return done(5, Change(name=name, previous=before, requested=0.0, effective=0.0), weight_decay=0.0)


@pytest.mark.parametrize("limits", [{"max_change_factor": 10}, {"window": {"steps": 50, "max_change_factor": 10}}])
def test_zero_is_no_way_around_a_factor(limits: dict[str, Any]) -> None:
    """Seen before: weight decay 0.01 -> 5 was refused, and 0.01 -> 0 -> 10 applied."""
    info = run([1e-3], step=10, weight_decay=[0.01])
    assert judge(info, propose(weight_decay=0.0), **limits).nearest_allowed == pytest.approx({"weight_decay": 0.001})
    at_zero, history = run([1e-3], step=10, weight_decay=[0.0]), [zeroed("weight_decay", 0.01)]
    assert judge(at_zero, propose(weight_decay=10.0), history, **limits).nearest_allowed == pytest.approx(
        {"weight_decay": 0.1}
    )
    assert passes(at_zero, propose(weight_decay=0.1), history, **limits)


def test_a_rise_from_zero_that_nothing_can_be_compared_with_is_limited() -> None:
    info = run([1e-3], weight_decay=[0.0], momentum=[0.0], strength=[0.0])
    assert judge(info, propose(weight_decay=5.0), max_change_factor=10).nearest_allowed == {"weight_decay": 0.1}
    assert passes(info, propose(momentum=0.9), max_change_factor=10)
    assert not passes(info, propose(other={"strength": 0.5}), max_change_factor=10)
    assert passes(info, propose(other={"strength": 0.5}))


def test_clipping_that_is_off_is_clipping_at_infinity() -> None:
    """Seen before: clipping off, then 1e6."""
    info = run([1e-3], max_grad_norm=1.0)
    off = propose("update_training", max_grad_norm=0.0)
    assert judge(info, off, max_change_factor=10).nearest_allowed == pytest.approx({"max_grad_norm": 10})
    assert judge(info, off, bounds={"max_grad_norm": [None, 5]}).decided_by == "guardrail:bounds"
    is_off = run([1e-3], step=9, max_grad_norm=0.0)
    history = [zeroed("max_grad_norm", 1.0)]
    assert not passes(is_off, propose("update_training", max_grad_norm=1e6), history, max_change_factor=10)
    assert passes(is_off, propose("update_training", max_grad_norm=2.0), history, max_change_factor=10)
    assert passes(is_off, propose("update_training", max_grad_norm=1.0), max_change_factor=10)


def test_a_rate_of_zero_is_left_only_towards_a_value_that_was() -> None:
    info = run([1e-3], shape=lambda t: 0.0)
    at_zero = info.model_copy(update={"knobs": [KnobState(name="lr", base=0.0, effective=0.0)]})
    assert not passes(at_zero, propose(lr=1e-3), max_change_factor=10)
    history = [done(0, Change(name="lr", previous=1e-3, requested=0.0, effective=0.0), lr=0.0)]
    assert passes(at_zero, propose(lr=1e-3), history, max_change_factor=10)
    assert not passes(run([1e-3]), propose(lr=0.0), max_change_factor=10)


# -- what is touched ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("update_optimizer", {"betas": [0.8, 0.99]}),
        ("update_optimizer", {"other": {"amsgrad": True}}),
        ("update_dataset_runtime_hyperparameters", {"values": {"weights": {"a": 1.0}}}),
        ("update_dataset", {"values": {"block_tokens": 8}}),
        ("set_knob", {"name": "mode", "value": "fast"}),
        ("model_layer_operation", {"layer_name": "h.0", "operation_name": "reset_parameters"}),
        ("model_layer_parameter_update", {"layer_name": "h.0", "param_name": "p", "value": 0.1}),
    ],
)
def test_a_cooldown_is_of_what_is_touched(kind: str, fields: dict[str, Any]) -> None:
    """Seen before: two changes of betas, 8 steps apart, passed a cooldown of 100."""
    info, record = run([1e-3], step=13, mode="slow"), done(5, kind=kind, **fields)
    assert judge(info, propose(kind, **fields), [record], cooldown_steps=100).decided_by == "guardrail:cooldown"
    hurt = record.model_copy(update={"state": State.REVERTED})
    assert judge(info, propose(kind, **fields), [hurt]).decided_by == "guardrail:after_revert"
    assert passes(info, propose(lr=1e-3), [record], cooldown_steps=100)


# -- numbers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"lr": 1e-312},
        {"weight_decay": 1e-310},
        {"eps": 1e-40},
        {"betas": [1e-320, 0.9]},
        {"momentum": 5e-324},
        {"other": {"rho": 1e-309}},
        {"other": {"eps": [1e-309, 1.0]}},
        {"kind": "update_schedule", "shape": "linear", "peak_lr": 1e-312},
        {"kind": "update_schedule", "shape": "linear", "final_lr": 1e-312},
        {"kind": "update_training", "max_grad_norm": 1e-312},
    ],
)
def test_numbers_that_no_tensor_holds_are_refused(fields: dict[str, Any]) -> None:
    """Seen before: 1e-312, then 0.01: trained at infinity."""
    with pytest.raises(CommandError, match=r"at least 1\.18e-38"):
        parse_command({"kind": "update_optimizer", **fields})


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"start_lr": 1e-4}, "give warmup_steps too"),
        ({"start_lr": 1.0, "peak_lr": 0.1, "warmup_steps": 3}, "would go down"),
    ],
)
def test_a_warm_up_goes_up(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(CommandError, match=words):
        parse_command({"kind": "update_schedule", "shape": "linear", **fields})


def test_a_plan_in_words() -> None:
    command: Any = parse_command({"kind": "update_schedule", "shape": "wsd", "warmup_steps": 10, "decay_steps": 20})
    plan = make_plan(command, 100, 200, 0.01)
    words = "warm-up from 0 at step 100 to 0.01 at step 110, then constant 0.01 until step 180, then linear to 0 at "
    words += "step 200"
    assert plan_text(plan, 0.01) == words
    factors = [planned_factor(plan, t) for t in (100, 105, 110, 180, 190, 200)]
    assert factors == pytest.approx([0, 0.5, 1, 1, 0.5, 0])


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "meant"),
    [
        ({"bounds": {"learning_rate": [0, 1]}}, "lr"),
        ({"bounds": {"weight_deacy": [0, 1]}}, "weight_decay"),
        ({"bounds": {"LR": [0, 1]}}, "lr"),
        ({"bounds": {"gradient_clip_val": [0, 1]}}, "max_grad_norm"),
        ({"approval": [{"approvers": ["auto"], "knobs": ["learning-rate"]}]}, "lr"),
        ({"approval": [{"approvers": ["rule"], "approve_if": "to('learning_rate') < 1"}]}, "lr"),
    ],
)
def test_a_limit_on_a_name_that_no_run_has_is_an_error(settings: dict[str, Any], meant: str) -> None:
    with pytest.raises(ValueError, match=f"did you mean '{meant}'"):
        GateSettings.model_validate(settings)


def test_a_limit_on_a_name_that_this_run_lacks_is_told() -> None:
    GateSettings.model_validate({"bounds": {"label_smoothing": [0, 1]}})
    info = run([1e-3]).model_copy(update={"rules": {"gate": {"bounds": {"label_smothing": [0, 1], "lr": [0, 1]}}}})
    knobs = [*info.knobs, KnobState(name="label_smoothing", effective=0.1)]
    (sentence,) = guards_nothing(info, knobs, None)
    assert "gate.bounds.label_smothing protects nothing" in sentence
    assert "did you mean 'label_smoothing'?" in sentence


def test_settings_that_an_older_version_took_are_still_read() -> None:
    info = run([1e-3]).model_copy(update={"rules": {"gate": {"bounds": {"learning_rate": [0, 1]}}}})
    assert Gate.of(info).settings.bounds.keys() == {"learning_rate"}


# -- the nearest value that passes -------------------------------------------------------------------------------------


def test_the_nearest_value_passes_all_limits_together() -> None:
    """Seen before: bounds named 0.0215 for 0.7, which the factor refused with 0.002175."""
    info = run([7.25e-4])
    limits: dict[str, Any] = {"bounds": {"lr": [1e-6, 0.0215]}, "max_change_factor": 3}
    verdict = judge(info, propose(lr=0.7), **limits)
    assert verdict.decided_by == "guardrail:bounds"
    assert verdict.nearest_allowed == pytest.approx({"lr": 2.175e-3})
    assert passes(info, propose(lr=2.175e-3), **limits)


def test_where_no_value_passes_all_limits_none_is_named() -> None:
    verdict = judge(run([1.0]), propose(lr=0.5), bounds={"lr": [1e-6, 0.1]}, max_change_factor=3)
    assert verdict.decision == "rejected"
    assert verdict.nearest_allowed is None


def test_the_nearest_of_several_values_names_all_that_are_wrong() -> None:
    info = run([1e-3], weight_decay=[0.1], betas=[[0.9, 0.999]])
    limits: dict[str, Any] = {"max_change_factor": 2, "bounds": {"lr": [1e-6, 1.5e-3]}}
    asked: dict[str, Any] = {"lr": 0.1, "weight_decay": 5.0, "betas": [0.1, 0.1]}
    nearest = judge(info, propose(**asked), **limits).nearest_allowed
    assert nearest == pytest.approx({"lr": 1.5e-3, "weight_decay": 0.2, "betas": pytest.approx([0.8, 0.998])})


def test_the_nearest_probe_has_all_its_candidates_allowed() -> None:
    info = run([1e-3])
    asked = propose("probe", candidates=[{"kind": "update_optimizer", "lr": lr} for lr in (1e-3, 0.1, 0.5)], steps=5)
    limits: dict[str, Any] = {"max_change_factor": 2}
    verdict = judge(info, asked, **limits)
    assert verdict.reason.startswith("candidate 1")
    mended = propose("probe", steps=5, **(verdict.nearest_allowed or {}))
    assert passes(info, mended, **limits)


NUMBERS = st.floats(-5, 1).map(lambda exponent: 10**exponent)
SHARES = st.sampled_from([0.1, 0.5, 0.9, 0.99, 0.999, 0.9999999])
ASKED = st.one_of(
    st.builds(lambda lr, sets: {"lr": lr, "lr_sets": sets}, NUMBERS, st.sampled_from(["base", "effective"])),
    st.builds(lambda lr, group: {"lr": lr, "param_group": group}, NUMBERS, st.integers(0, 2)),
    st.builds(lambda lr, decay: {"lr": lr, "weight_decay": decay}, NUMBERS, st.one_of(st.just(0.0), NUMBERS)),
    st.builds(lambda a, b, m: {"betas": [a, b], "momentum": m}, SHARES, SHARES, SHARES),
    st.builds(
        lambda shape, peak, final, warm, end: {
            "kind": "update_schedule",
            "shape": shape,
            "peak_lr": peak,
            "final_lr": final,
            "warmup_steps": warm,
            "end_step": end,
        },
        st.sampled_from(["constant", "linear", "cosine", "wsd"]),
        NUMBERS,
        st.one_of(st.just(0.0), NUMBERS),
        st.integers(0, 60),
        st.integers(5, STEPS),
    ),
)


@given(
    asked=ASKED,
    shape=st.sampled_from([flat, linear, warm]),
    step=st.sampled_from([0, 20, 60]),
    rates=st.lists(st.floats(1e-4, 1e-2), min_size=2, max_size=2),
    top=st.sampled_from([2e-3, 0.0215, 1.0]),
    factor=st.sampled_from([1.5, 3.0, 100.0]),
    window=st.sampled_from([None, 2.0, 10.0]),
)
@settings(max_examples=150, deadline=None)
def test_whatever_is_named_as_nearest_is_not_refused(
    asked: dict[str, Any],
    shape: Factor,
    step: int,
    rates: list[float],
    top: float,
    factor: float,
    window: float | None,
) -> None:
    info = run(rates, step=step, shape=shape, weight_decay=[0.1, 0.01], betas=[[0.9, 0.999]] * 2, momentum=[0.9, 0.5])
    limits: dict[str, Any] = {
        "bounds": {"lr": [1e-6, top], "momentum": [0.3, 0.99]},
        "max_change_factor": factor,
        "window": {"steps": 50, "max_change_factor": window},
    }
    moved = Change(name="lr", previous=1e-3, requested=1.4e-3, effective=1.4e-3, factors=[(1.4, 1.4)] * 2)
    history = [done(max(0, step - 3), moved, lr=1.4e-3)]
    nearest = judge(info, propose(**asked), history, **limits).nearest_allowed
    if nearest is not None:
        assert passes(info, propose(**{**asked, **nearest}), history, **limits), nearest


# -- values near 1 -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "nearest"),
    [
        ({"betas": [0.9, 0.9999999]}, {"betas": [0.9, 1 - 1e-3 / 3]}),
        ({"betas": [0.5, 0.999]}, {"betas": [0.7, 0.999]}),
        ({"momentum": 0.99999}, {"momentum": 1 - 0.1 / 3}),
        ({"other": {"alpha": 0.99999}}, {"other.alpha": 1 - 0.01 / 3}),
    ],
)
def test_of_values_near_1_what_is_left_to_1_counts(asked: dict[str, Any], nearest: dict[str, Any]) -> None:
    """Seen before: 0.999 -> 0.9999999 counted as a factor of 1.001, and an average of 10,000 times as many steps."""
    info = run([1e-3], betas=[[0.9, 0.999]], momentum=[0.9], alpha=[0.99])
    verdict = judge(info, propose(**asked), max_change_factor=3)
    assert verdict.decided_by == "guardrail:change_factor"
    found = verdict.nearest_allowed or {}
    assert found.keys() == nearest.keys()
    for name, value in nearest.items():
        assert found[name] == pytest.approx(value)
    field, _, inner = next(iter(found)).partition(".")
    again = {field: {inner: found[f"{field}.{inner}"]}} if inner else found
    assert passes(info, propose(**again), max_change_factor=3)
    assert not passes(info, propose(**asked), window={"steps": 50, "max_change_factor": 3})


def test_values_near_1_go_no_further_in_small_steps_and_rules_see_their_factor() -> None:
    info = run([1e-3], betas=[[0.9, 0.9999]])
    change = Change(name="betas", previous=[0.9, 0.999], requested=[0.9, 0.9999], effective=[0.9, 0.9999])
    groups = {"groups": [[0.9, 0.9999]], "previous_groups": [[0.9, 0.999]]}
    record = done(0, change.model_copy(update=groups), betas=[0.9, 0.9999])
    window = {"steps": 50, "max_change_factor": 20}
    assert passes(info, propose(betas=[0.9, 0.99999]), window=window)
    assert not passes(info, propose(betas=[0.9, 0.99999]), [record], window=window)
    assert factor_of(propose(betas=[0.9, 0.9999999]).command, info) == pytest.approx(1000)


@pytest.mark.parametrize("left", [1e-3, 1e-7, 1e-12])
def test_the_nearest_value_near_1_passes_however_near(left: float) -> None:
    info = run([1e-3], momentum=[1 - left])
    nearest = judge(info, propose(momentum=1 - 1e-15), max_change_factor=2).nearest_allowed
    assert nearest is not None
    assert 1 - nearest["momentum"] == pytest.approx(left / 2, rel=1e-3)


# -- what does not fit the run -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (
            {"kind": "update_schedule", "shape": "cosine", "end_step": 20, "final_lr": 1e-5},
            "not after the current step",
        ),
        ({"kind": "update_schedule", "shape": "linear", "end_step": 3}, "not after the current step"),
        ({"kind": "update_schedule", "shape": "linear", "warmup_steps": 90}, "leaves nothing of the 80 steps"),
        ({"kind": "update_schedule", "shape": "wsd", "decay_steps": 90}, "more than the 80 steps"),
        ({"kind": "update_schedule", "shape": "linear", "warmup_steps": 5, "start_lr": 0.5}, "would go down"),
        ({"kind": "update_schedule", "shape": "previous"}, "no plan to go back from"),
        ({"lr": 1e-3, "param_group": 2}, "param_group 2 does not exist"),
        ({"weight_decay": 0.1, "param_group": 7}, "param_group 7 does not exist"),
        ({"other": {"amsgrad": 3}}, "amsgrad is true or false"),
        ({"other": {"weight_decay": [0.1]}}, "weight_decay is a number"),
        ({"kind": "set_knob", "name": "temprature", "value": 1.0}, "no knob 'temprature'"),
        ({"kind": "set_knob", "name": "temperature", "value": "hot"}, "knob 'temperature' is a float"),
        ({"kind": "set_knob", "name": "temperature", "value": True}, "knob 'temperature' is a float"),
        ({"kind": "set_knob", "name": "mode", "value": 2}, "knob 'mode' is a str"),
        ({"kind": "set_knob", "name": "rows", "value": 2.5}, "knob 'rows' is a int"),
    ],
)
@pytest.mark.parametrize("author", [AGENT, OPERATOR])
def test_what_does_not_fit_the_run_is_refused_before_anybody_is_asked(
    asked: dict[str, Any], said: str, author: Author
) -> None:
    """Seen before: a person was asked, said yes, and the trainer failed; a plan that had ended was shown as x0.0116."""
    info = run([1e-3, 1e-4], step=20, amsgrad=False, weight_decay=0.1, temperature=1.0, mode="slow", rows=3)
    gate = Gate(
        GateSettings.model_validate({"approval": [{"approvers": ["human"]}], "max_change_factor": 3}), BudgetSettings()
    )
    verdict = gate.judge(propose(author=author, **asked), Moment(info, Instant(0.0)), CommandHistory())
    assert isinstance(verdict, Verdict)
    assert verdict.decided_by == "guardrail:feasible"
    assert said in verdict.reason


@pytest.mark.parametrize(
    "asked",
    [
        {"kind": "set_knob", "name": "temperature", "value": 2},
        {"kind": "set_knob", "name": "mode", "value": "fast"},
        {"kind": "update_schedule", "shape": "constant", "end_step": 3},
        {"kind": "update_schedule", "shape": "linear", "end_step": 21},
        {"lr": 1e-3, "param_group": 1},
    ],
)
def test_what_fits_the_run_is_let_through(asked: dict[str, Any]) -> None:
    info = run([1e-3, 1e-4], step=20, temperature=1.0, mode="slow")
    assert passes(info, propose(**asked))


def test_what_a_queued_command_may_make_possible_is_left_to_the_trainer() -> None:
    info, gate = run([1e-3], step=20), Gate(GateSettings(), BudgetSettings())
    queued = CommandRecord(
        proposal=propose("update_schedule", shape="linear"), state=State.QUEUED, verdict=APPROVED, submitted_seq=1
    )
    for asked in (propose("update_schedule", shape="previous"), propose("update_schedule", shape="linear", end_step=9)):
        assert gate.refusal(asked, info, CommandHistory()) is not None
        assert gate.refusal(asked, info, CommandHistory(queued=[queued])) is None
