"""Every limit of the gate at the limit itself: the last value that passes, the first that does not, and for whom."""

from __future__ import annotations

from typing import Any

import pytest

from agenttune.config import BudgetSettings, GateSettings, ProbationSettings
from agenttune.gate import Gate, History, Moment
from agenttune.protocol.deadlines import Instant
from agenttune.protocol.events import RunInfo
from agenttune.protocol.proposals import ApprovalRequest, Author, CommandRecord, Proposal, State, Verdict
from tests.core.conftest import AGENT, OPERATOR, propose
from tests.core.test_limits import done, judge, passes, run

RUN = run([0.01], step=50)
"""At step 50 of 100, with a constant rate of 0.01."""


def ask(
    proposal: Proposal,
    info: RunInfo = RUN,
    history: History | None = None,
    *,
    budgets: BudgetSettings | None = None,
    probation: ProbationSettings | None = None,
    **settings: Any,
) -> Verdict | ApprovalRequest:
    gate = Gate(GateSettings.model_validate(settings), budgets or BudgetSettings(), probation or ProbationSettings())
    return gate.judge(proposal, Moment(info, Instant(1000.0)), history or History())


def verdict(proposal: Proposal, *given: Any, **settings: Any) -> Verdict:
    ruling = ask(proposal, *given, **settings)
    assert isinstance(ruling, Verdict)
    return ruling


def at(step: int, max_steps: int | None = 100) -> RunInfo:
    return RUN.model_copy(update={"step": step, "max_steps": max_steps})


# -- values ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lr", "is_allowed"),
    [
        (0.05, True),
        (0.05 * (1 + 1e-12), True),  # the last digits of a product
        (0.05 * (1 + 1e-6), False),
        (0.002, True),
        (0.002 * (1 - 1e-12), True),
        (0.002 * (1 - 1e-6), False),
    ],
)
def test_a_bound_itself_is_allowed_and_what_is_beyond_is_not(lr: float, is_allowed: bool) -> None:
    assert passes(RUN, propose(lr=lr), bounds={"lr": [0.002, 0.05]}) is is_allowed
    assert passes(RUN, propose(lr=lr), max_change_factor=5) is is_allowed
    window = {"steps": 20, "max_change_factor": 5}
    assert passes(RUN, propose(lr=lr), window=window) is is_allowed


@pytest.mark.parametrize("value", [-0.5, -1.0])
def test_bounds_below_zero_are_bounds(value: float) -> None:
    knob = RUN.model_copy(update={"knobs": [*run([0.01], step=50, shift=-0.7).knobs]})
    knob.knobs[1] = knob.knobs[1].model_copy(update={"command": "set_knob"})
    asked = propose("set_knob", name="shift", value=value)
    assert passes(knob, asked, bounds={"shift": [-1.0, -0.5]})
    assert not passes(knob, asked, bounds={"shift": [-0.9, -0.6]})
    nearest = -0.6 if value == -0.5 else -0.9
    assert judge(knob, asked, bounds={"shift": [-0.9, -0.6]}).nearest_allowed == {"value": nearest}


# -- steps -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("step", "is_allowed"), [(9, False), (10, True), (89, True), (90, False), (100, False)])
def test_agents_change_nothing_before_the_first_quiet_steps_are_over_and_from_the_last_on(
    step: int, is_allowed: bool
) -> None:
    quiet = {"quiet_first_steps": 10, "quiet_last_steps": 10}
    assert (verdict(propose(lr=0.011), at(step), **quiet).decision == "approved") is is_allowed
    assert verdict(propose("add_note", text="a note"), at(step), **quiet).decision == "approved", "it changes nothing"
    assert verdict(propose(lr=0.011, author=OPERATOR), at(step), **quiet).decision == "approved"


def test_a_run_without_quiet_steps_or_without_a_known_end_is_open_to_its_end() -> None:
    assert verdict(propose(lr=0.011), at(100)).decision == "approved"
    assert verdict(propose(lr=0.011), at(0)).decision == "approved"
    assert verdict(propose(lr=0.011), at(95, None), quiet_last_steps=10).decision == "approved"


def test_too_early_says_from_which_step_on() -> None:
    assert verdict(propose(lr=0.011), at(3), quiet_first_steps=10).nearest_allowed == {"based_on_step": 10}


@pytest.mark.parametrize(("changed_at", "is_allowed"), [(50, False), (41, False), (40, True), (51, True)])
def test_a_cooldown_counts_from_the_change_to_the_same_step_later(changed_at: int, is_allowed: bool) -> None:
    """A change at a later step lies on a course that was left by restoring a checkpoint."""
    ruling = judge(RUN, propose(lr=0.011), [done(changed_at, lr=0.02)], cooldown_steps=10)
    assert (ruling.decision == "approved") is is_allowed
    if not is_allowed:
        assert ruling.nearest_allowed == {"based_on_step": changed_at + 10}


@pytest.mark.parametrize(("changed_at", "is_allowed"), [(50, False), (41, False), (40, True)])
def test_a_change_that_was_undone_rests_for_the_steps_of_probation(changed_at: int, is_allowed: bool) -> None:
    undone = done(changed_at, lr=0.02).model_copy(update={"state": State.REVERTED})
    probation = ProbationSettings(cooldown_steps=10)
    history = History([undone])
    ruling = verdict(propose(lr=0.011), RUN, history, probation=probation)
    assert (ruling.decision == "approved") is is_allowed
    if not is_allowed:
        assert ruling.nearest_allowed == {"based_on_step": changed_at + 10}
        assert f"at step {changed_at} hurt and was undone" in ruling.reason
    kept = History([done(changed_at, lr=0.02)])
    assert verdict(propose(lr=0.011), RUN, kept, probation=probation).decision == "approved"
    assert verdict(propose(lr=0.011, author=OPERATOR), RUN, history, probation=probation).decision == "approved"
    assert verdict(propose(weight_decay=0.1), RUN, history, probation=probation).decision == "approved"
    off = ProbationSettings(cooldown_steps=0)
    assert verdict(propose(lr=0.011), RUN, history, probation=off).decision == "approved"


@pytest.mark.parametrize(
    ("steps", "is_allowed"),
    [([31, 50], False), ([30, 50], True), ([50, 51], True), ([50], True)],
    ids=["both within", "one is 20 steps ago", "one was left behind", "one"],
)
def test_a_window_counts_the_commands_of_its_newest_steps(steps: list[int], is_allowed: bool) -> None:
    """The step that is as many steps ago as the window is long lies outside of it."""
    history = [done(step, weight_decay=0.1) for step in steps]
    window = {"steps": 20, "max_commands": 2}
    assert passes(RUN, propose(lr=0.011), history, window=window) is is_allowed


# -- what was refused before -------------------------------------------------------------------------------------------


def refused(step: int, by: str = "guardrail:bounds", **command: Any) -> CommandRecord:
    no = Verdict(decision="rejected", decided_by=by, reason="too high")
    return CommandRecord(
        proposal=propose(**command), state=State.REJECTED, verdict=no, submitted_seq=1, submitted_step=step
    )


@pytest.mark.parametrize(("step", "is_allowed"), [(50, False), (41, False), (40, True), (51, True)])
def test_what_was_refused_is_looked_at_again_after_so_many_steps(step: int, is_allowed: bool) -> None:
    history = History(refused=[refused(step, lr=0.011)])
    ruling = verdict(propose(lr=0.011), RUN, history, repeat_cooldown_steps=10)
    assert (ruling.decision == "approved") is is_allowed
    if not is_allowed:
        assert ruling.decided_by == "guardrail:repeated"
        assert "too high" in ruling.reason
    assert verdict(propose(lr=0.012), RUN, history, repeat_cooldown_steps=10).decision == "approved"
    assert verdict(propose(lr=0.011, author=OPERATOR), RUN, history, repeat_cooldown_steps=10).decision == "approved"
    assert verdict(propose(lr=0.011), RUN, history, repeat_cooldown_steps=0).decision == "approved"


def test_asking_again_and_again_does_not_make_the_wait_longer() -> None:
    """What counts is the refusal that was repeated, not the refusals of its repetitions."""
    history = History(refused=[refused(30, lr=0.011), refused(49, by="guardrail:repeated", lr=0.011)])
    assert verdict(propose(lr=0.011), RUN, history, repeat_cooldown_steps=20).decision == "approved"
    again = verdict(propose(lr=0.011), RUN, history, repeat_cooldown_steps=21)
    assert "the same was refused 20 steps ago (too high)" in again.reason


# -- budgets -----------------------------------------------------------------------------------------------------------


def probe(count: int = 2, steps: int = 5, author: Author = AGENT, include_current: bool = True) -> Proposal:
    rates = [{"kind": "update_optimizer", "lr": 0.01 + 0.001 * (i + 1)} for i in range(count)]
    return propose("probe", author, candidates=rates, steps=steps, include_current=include_current)


@pytest.mark.parametrize(
    ("budgets", "used", "steps"),
    [
        ({"max_probe_steps": 15, "max_probe_frac": None}, 0, None),
        ({"max_probe_steps": 14, "max_probe_frac": None}, 0, 4),
        ({"max_probe_steps": 20, "max_probe_frac": None}, 5, None),
        ({"max_probe_steps": 20, "max_probe_frac": None}, 6, 4),
        ({"max_probe_steps": 20, "max_probe_frac": None}, 14, 2),
        ({"max_probe_steps": 20, "max_probe_frac": None}, 15, 0),
        ({"max_probe_frac": 0.15}, 0, None),
        ({"max_probe_frac": 0.14}, 0, 4),
        ({"max_probe_steps": 100, "max_probe_frac": 0.14}, 0, 4),
        ({"max_probe_steps": None, "max_probe_frac": None}, 10_000, None),
    ],
)
def test_the_extra_steps_of_probes_are_limited_to_the_step(
    budgets: dict[str, Any], used: int, steps: int | None
) -> None:
    """Two candidates and the values of now take 15 extra steps at 5 each; a trial takes 2 steps at least.

    Args:
        budgets: Limits in a run of 100 steps.
        used: Extra steps before.
        steps: What is named as nearest; 0: nothing; None: it is let through.
    """
    history = History(extra_steps=used)
    ruling = verdict(probe(), RUN, history, budgets=BudgetSettings.model_validate(budgets))
    assert (ruling.decision == "approved") is (steps is None)
    if steps is not None:
        assert ruling.decided_by == "guardrail:extra_steps"
        assert ruling.nearest_allowed == ({"steps": steps} if steps else None)
    person = verdict(probe(author=OPERATOR), RUN, history, budgets=BudgetSettings.model_validate(budgets))
    assert person.decision == "approved"


def test_without_a_known_end_probes_may_take_a_part_of_the_steps_so_far() -> None:
    budgets = BudgetSettings(max_probe_frac=0.3)
    assert verdict(probe(), at(50, None), budgets=budgets).decision == "approved"
    assert verdict(probe(), at(49, None), budgets=budgets).decided_by == "guardrail:extra_steps"


@pytest.mark.parametrize(("step", "left"), [(94, None), (95, 4), (97, 2), (98, 0)])
def test_a_trial_ends_before_the_run_does(step: int, left: int | None) -> None:
    """It binds people too: the trainer has no batches beyond its end."""
    for author in AGENT, OPERATOR:
        ruling = verdict(probe(author=author), at(step), budgets=BudgetSettings(max_probe_frac=None))
        assert (ruling.decision == "approved") is (left is None)
        if left is not None:
            assert ruling.nearest_allowed == ({"steps": left} if left else None)


# -- layers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "model_layer_operation", "operation_name": "reset_parameters"},
        {"kind": "model_layer_parameter_update", "param_name": "p", "value": 0.1},
    ],
)
@pytest.mark.parametrize(("layer", "is_allowed"), [("head", False), ("head.0", True), ("tail", True), ("Tail", False)])
def test_agents_change_layers_of_the_allowed_patterns_only(
    fields: dict[str, Any], layer: str, is_allowed: bool
) -> None:
    asked = {**fields, "layer_name": layer}
    ruling = verdict(propose(**asked), allowed_layers=["head.*", "tail"])
    assert (ruling.decision == "approved") is is_allowed
    if not is_allowed:
        assert ruling.nearest_allowed == {"layer_name": ["head.*", "tail"]}
    assert verdict(propose(**asked, author=OPERATOR), allowed_layers=["head.*", "tail"]).decision == "approved"
    assert verdict(propose(**asked)).decision == "approved"


# -- which rule speaks of what -----------------------------------------------------------------------------------------


def rule_of(proposal: Proposal, *rules: dict[str, Any], info: RunInfo = RUN) -> str:
    """The rule that a proposal waits by; empty: none fits."""
    ruling = ask(proposal, info, approval=[{"approvers": ["human"], **rule} for rule in rules])
    return ruling.rule if isinstance(ruling, ApprovalRequest) else ""


@pytest.mark.parametrize(
    ("rule", "asked", "fits"),
    [
        ({"risks": ["tune"]}, {"lr": 0.02}, True),
        ({"risks": ["danger"]}, {"lr": 0.02}, False),
        ({"risks": ["tune", "danger"]}, {"kind": "stop_training"}, True),
        ({"commands": ["stop_training"], "risks": ["tune"]}, {"kind": "stop_training"}, False),
        ({"knobs": ["lr"]}, {"lr": 5.0}, True),
        ({"knobs": ["lr"]}, {"lr": 0.02, "weight_decay": 0.1}, False),
        ({"knobs": ["lr", "weight_decay"]}, {"lr": 0.02, "weight_decay": 0.1}, True),
        ({"knobs": ["lr"]}, {"kind": "do_evaluate"}, False),
        ({"max_factor": 2}, {"lr": 0.02}, True),
        ({"max_factor": 2}, {"lr": 0.005}, True),
        ({"max_factor": 2}, {"lr": 0.0201}, False),
        ({"max_factor": 2}, {"lr": 0.00499}, False),
        ({"max_factor": 2}, {"kind": "do_evaluate"}, False),
        ({"max_factor": 2, "knobs": ["lr"]}, {"lr": 0.0201}, False),
        ({"max_factor": 2}, {"lr": 0.02, "other": {"amsgrad": True}}, False),
    ],
)
def test_a_rule_fits_what_it_names_up_to_its_factor(rule: dict[str, Any], asked: dict[str, Any], fits: bool) -> None:
    assert bool(rule_of(propose(**asked), rule)) is fits


def test_the_first_rule_that_fits_is_asked() -> None:
    rules = {"name": "stop", "commands": ["stop_training"]}, {"name": "rest"}, {"name": "never"}
    assert rule_of(propose(lr=0.02), *rules) == "rest"
    assert rule_of(propose("stop_training"), *rules) == "stop"


def test_a_rule_that_asks_nobody_is_named_in_the_verdict() -> None:
    ruling = verdict(propose(lr=0.02), approval=[{"name": "small", "approvers": ["auto"]}])
    assert (ruling.decision, ruling.decided_by) == ("approved", "rule:small")


def test_a_request_says_when_it_was_made_and_until_when_it_waits() -> None:
    ruling = ask(propose(lr=0.02), approval=[{"approvers": ["human"], "timeout_s": 60, "training": "pause"}])
    assert isinstance(ruling, ApprovalRequest)
    assert (ruling.requested_at_s, ruling.expires_at_s, ruling.training) == (1000.0, 1060.0, "pause")
    assert (ruling.step, ruling.branch) == (50, "main")
    assert [(d.name, d.before, d.after) for d in ruling.differences] == [("lr", 0.01, 0.02)]
