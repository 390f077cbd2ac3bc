"""Every limit of the gate at the limit itself: the last value that passes, the first that does not, and for whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from agenttune.config import BudgetSettings, GateSettings, ProbationSettings
from agenttune.gate import GUARDRAILS, CommandHistory, Gate, Guardrail, Moment, guards_nothing, stale
from agenttune.gate.allowances import guardrails_of
from agenttune.gate.change_limits import change_factor, window_factor
from agenttune.gate.context import World
from agenttune.gate.feasibility import feasible
from agenttune.gate.guardrails import (
    after_revert,
    budget,
    cooldown,
    extra_steps,
    forbidden,
    layers,
    persons_pause,
    quiet_steps,
    repeated,
    returns,
    window_commands,
)
from agenttune.gate.value_bounds import bounds
from agenttune.protocol.deadlines import Instant
from agenttune.protocol.events import BranchStarted, DatasetRead
from agenttune.protocol.lineage import Lineage
from agenttune.protocol.overview import Spent
from agenttune.protocol.proposals import ApprovalRequest, Author, Change, CommandRecord, Proposal, State, Verdict
from agenttune.protocol.run_info import KnobState, RunInfo
from tests.core.conftest import AGENT, OPERATOR, propose
from tests.core.test_limits import done, judge, passes, run

RUN = run([0.01], step=50)
"""At step 50 of 100, with a constant rate of 0.01."""


def ask(
    proposal: Proposal,
    info: RunInfo = RUN,
    history: CommandHistory | None = None,
    *,
    budgets: BudgetSettings | None = None,
    probation: ProbationSettings | None = None,
    **settings: Any,
) -> Verdict | ApprovalRequest:
    gate = Gate(GateSettings.model_validate(settings), budgets or BudgetSettings(), probation or ProbationSettings())
    return gate.judge(proposal, Moment(info, Instant(1000.0)), history or CommandHistory())


def verdict(proposal: Proposal, *given: Any, **settings: Any) -> Verdict:
    ruling = ask(proposal, *given, **settings)
    assert isinstance(ruling, Verdict)
    return ruling


def at(step: int, max_steps: int | None = 100) -> RunInfo:
    return RUN.model_copy(update={"step": step, "max_steps": max_steps})


def standing_still(*rates: float, ratios: list[float] | None = None) -> RunInfo:
    """A run whose groups have these rates, with no schedule."""
    lr = KnobState(
        name="lr", base=rates[0], effective=rates[0], groups=list(rates), base_groups=list(rates), ratios=ratios
    )
    return RUN.model_copy(update={"knobs": [lr], "schedule": None})


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
    history = CommandHistory([undone])
    ruling = verdict(propose(lr=0.011), RUN, history, probation=probation)
    assert (ruling.decision == "approved") is is_allowed
    if not is_allowed:
        assert ruling.nearest_allowed == {"based_on_step": changed_at + 10}
        assert f"at step {changed_at} hurt and was undone" in ruling.reason
    kept = CommandHistory([done(changed_at, lr=0.02)])
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


def refused(step: int, by: str = "operator:anna", branch: str | None = None, **command: Any) -> CommandRecord:
    """By somebody who was asked."""
    no = Verdict(decision="rejected", decided_by=by, reason="too high")
    asked = propose(**command).model_copy(update={"based_on_branch": branch})
    request = ask(asked, approval=[{"approvers": ["human"]}])
    assert isinstance(request, ApprovalRequest)
    return CommandRecord(
        proposal=asked, state=State.REJECTED, request=request, verdict=no, submitted_seq=1, submitted_step=step
    )


@pytest.mark.parametrize(("step", "is_allowed"), [(50, False), (41, False), (40, True), (51, True)])
def test_what_was_refused_is_looked_at_again_after_so_many_steps(step: int, is_allowed: bool) -> None:
    history = CommandHistory(refused=[refused(step, lr=0.011)])
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
    history = CommandHistory(refused=[refused(30, lr=0.011), refused(49, by="guardrail:repeated", lr=0.011)])
    assert verdict(propose(lr=0.011), RUN, history, repeat_cooldown_steps=20).decision == "approved"
    again = verdict(propose(lr=0.011), RUN, history, repeat_cooldown_steps=21)
    assert "the same was refused 20 steps ago by operator:anna (too high)" in again.reason


@pytest.mark.parametrize(
    ("by", "is_repeated"),
    [
        ("model:reviewer", True),
        ("approver:mine", True),
        ("nobody", True),
        ("guardrail:bounds", False),
        ("rule:small", False),
        ("checkpoints", False),
    ],
)
def test_only_those_who_were_asked_refuse_for_a_while(by: str, is_repeated: bool) -> None:
    """Seen before: a plan was refused for 50 steps because there was none yet, when there long was one."""
    ruling = verdict(propose(lr=0.011), RUN, CommandHistory(refused=[refused(49, by, lr=0.011)]))
    assert (ruling.decision == "rejected") is is_repeated


WAY = Lineage.of("main-3", [BranchStarted(name="main-3", parent="main", from_step=40, checkpoint_id="c")])
"""At step 50, after a return from somewhere to step 40 of the first branch."""


@pytest.mark.parametrize(
    ("step", "branch", "stands"),
    [(45, "main-3", True), (39, "main", True), (45, "main", False), (45, "main-2", False), (39, "main-2", False)],
)
def test_what_a_return_has_left_behind_counts_in_no_window(step: int, branch: str, stands: bool) -> None:
    """Seen before: "5 steps ago" of what was several hundred trained steps and four branches ago."""
    said = CommandHistory(refused=[refused(step, branch=branch, lr=0.011)], lineage=WAY)
    assert (verdict(propose(lr=0.011), RUN, said).decision == "rejected") is stands
    change = Change(name="lr", previous=0.01, requested=0.02, effective=0.02, factors=[(2.0, 2.0)])
    changed = done(step, change, lr=0.02)
    assert changed.ack is not None
    changed = changed.model_copy(update={"ack": changed.ack.model_copy(update={"branch": branch})})
    did = CommandHistory([changed], lineage=WAY)
    window = {"steps": 20, "max_change_factor": 2}
    assert (verdict(propose(lr=0.011), RUN, did, window=window).decision == "rejected") is stands
    assert (verdict(propose(lr=0.011), RUN, did, cooldown_steps=20).decision == "rejected") is stands
    settings = GateSettings.model_validate({"cooldown_steps": 20})
    left = guardrails_of(World(RUN, did, settings, BudgetSettings(), ProbationSettings()), Spent())
    assert any("rests for" in one.words for one in left.allowances) is stands


LR: dict[str, Any] = {"lr": 0.011}
CHANGED = [done(41, weight_decay=0.1, lr=0.01)]
TWOFOLD = [done(41, Change(name="lr", previous=0.01, requested=0.02, effective=0.02, factors=[(2.0, 2.0)]), lr=0.02)]
UNDONE = [CHANGED[0].model_copy(update={"state": State.REVERTED})]
PROBE: dict[str, Any] = {
    "kind": "probe",
    "steps": 5,
    "candidates": [{"kind": "update_optimizer", "lr": rate} for rate in (0.011, 0.012)],
}
BACK: dict[str, Any] = {"kind": "load_checkpoint", "checkpoint_id": "c"}
LAYER: dict[str, Any] = {"kind": "model_layer_operation", "operation_name": "freeze", "layer_name": "head"}
SET: dict[str, Any] = {"kind": "update_schedule", "shape": "previous"}
PAUSED = RUN.model_copy(update={"paused_by": OPERATOR})


def warmed(step: int) -> RunInfo:
    return run([0.02], step=step, shape=lambda t: min(1.0, (t + 1) / 60))


LATER = at(60)


@dataclass(frozen=True)
class Case:
    """A command that a guardrail refuses, and what has changed when it no longer has a reason to.

    Attributes:
        was: The settings.
        now: Those that no longer refuse it; None: the same.
    """

    command: Mapping[str, Any]
    was: Mapping[str, Any] = field(default_factory=dict)
    now: Mapping[str, Any] | None = None
    before: RunInfo = RUN
    after: RunInfo = LATER
    history: Sequence[CommandRecord] = ()
    budgets: tuple[BudgetSettings, BudgetSettings] = (BudgetSettings(), BudgetSettings())
    probation: ProbationSettings = field(default_factory=ProbationSettings)


def raised(**limits: int) -> tuple[BudgetSettings, BudgetSettings]:
    return BudgetSettings.model_validate(limits), BudgetSettings()


CASES: Mapping[Guardrail, Case] = {
    forbidden: Case(LR, {"forbid": ["update_optimizer"]}, {}),
    persons_pause: Case({"kind": "resume_training"}, before=PAUSED),
    budget: Case(LR, budgets=raised(max_commands=0)),
    returns: Case(BACK, budgets=raised(max_returns=0)),
    extra_steps: Case(PROBE, budgets=raised(max_probe_steps=5)),
    quiet_steps: Case(LR, {"quiet_first_steps": 55}),
    layers: Case(LAYER, {"allowed_layers": ["body"]}, {}),
    window_commands: Case(LR, {"window": {"steps": 12, "max_commands": 1}}, history=CHANGED),
    feasible: Case(SET, after=run([0.01], step=60, before=lambda t: 1.0)),
    bounds: Case({"lr": 0.03}, {"bounds": {"lr": [0.0, 0.031]}}, before=warmed(30), after=warmed(70)),
    change_factor: Case({"lr": 0.05}, {"max_change_factor": 4}, after=run([0.02], step=60)),
    window_factor: Case(LR, {"window": {"steps": 12, "max_change_factor": 2}}, history=TWOFOLD),
    cooldown: Case(LR, {"cooldown_steps": 12}, history=CHANGED),
    after_revert: Case(LR, history=UNDONE, probation=ProbationSettings(cooldown_steps=12)),
}


@pytest.mark.parametrize("guardrail", [one for one in GUARDRAILS if one is not repeated])
def test_a_refusal_whose_cause_has_gone_is_not_repeated(guardrail: Guardrail) -> None:
    """And one whose cause holds is told anew, by the guardrail itself and as the run stands now."""
    case = CASES[guardrail]
    history = CommandHistory(case.history)

    def judged(info: RunInfo, settings: Mapping[str, Any], is_now: bool) -> Verdict:
        told: dict[str, Any] = {"budgets": case.budgets[is_now], "probation": case.probation}
        return verdict(propose(**case.command), info, history, **told, **settings)

    first = judged(case.before, case.was, is_now=False)
    world = World(case.before, history, GateSettings.model_validate(case.was), case.budgets[0], case.probation)
    assert guardrail(propose(**case.command), world) is not None
    assert first.decision == "rejected"
    no = CommandRecord(
        proposal=propose(**case.command),
        state=State.REJECTED,
        verdict=first,
        submitted_seq=1,
        submitted_step=case.before.step,
    )
    history = CommandHistory(case.history, refused=[no])
    assert judged(case.before, case.was, is_now=False) == first
    assert judged(case.after, case.was if case.now is None else case.now, is_now=True).decision == "approved"


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
    history = CommandHistory(extra_steps=used)
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


def test_a_change_that_was_left_behind_and_undone_rests_from_now_on() -> None:
    """A revert goes back to before the change, so the run stands at an earlier step than the change did."""
    undone = done(60, lr=0.02).model_copy(update={"state": State.REVERTED})
    ruling = verdict(propose(lr=0.011), RUN, CommandHistory([undone]), probation=ProbationSettings(cooldown_steps=10))
    assert ruling.decided_by == "guardrail:after_revert"
    assert ruling.nearest_allowed == {"based_on_step": 60}
    off = ProbationSettings(cooldown_steps=0)
    assert verdict(propose(lr=0.011), RUN, CommandHistory([undone]), probation=off).decision == "approved"


def test_a_cooldown_counts_from_where_a_command_was_applied_and_until_then_from_where_it_was_asked() -> None:
    applied = done(48, lr=0.02).model_copy(update={"submitted_step": 30})
    assert not passes(RUN, propose(lr=0.011), [applied], cooldown_steps=10)
    queued = applied.model_copy(update={"ack": None, "state": State.QUEUED})
    assert passes(RUN, propose(lr=0.011), [queued], cooldown_steps=10)
    assert not passes(RUN, propose(lr=0.011), [queued], cooldown_steps=21)


def test_the_same_may_be_asked_while_it_waits_only_where_repeating_is_free() -> None:
    waiting = CommandRecord(proposal=propose(lr=0.011), state=State.PROPOSED, submitted_seq=1, submitted_step=50)
    history = CommandHistory(waiting=[waiting])
    assert verdict(propose(lr=0.011), RUN, history).reason == "the same waits for a decision already"
    assert verdict(propose(lr=0.012), RUN, history).decision == "approved"
    assert verdict(propose(lr=0.011), RUN, history, repeat_cooldown_steps=0).decision == "approved"
    assert verdict(propose(lr=0.011, author=OPERATOR), RUN, history).decision == "approved"


# -- probes, candidate by candidate ------------------------------------------------------------------------------------


def test_a_probe_waits_for_a_person_if_one_of_its_candidates_does() -> None:
    """A candidate that a rule lets through by itself takes none of the others with it."""
    rules = [
        {"name": "small", "commands": ["update_optimizer"], "max_factor": 1.15, "approvers": ["auto"]},
        {"name": "trial", "commands": ["probe"], "approvers": ["auto"]},
        {"name": "rest", "approvers": ["human"]},
    ]
    assert isinstance(ask(probe(1), approval=rules), Verdict)
    waits = ask(probe(2), approval=rules)
    assert isinstance(waits, ApprovalRequest)
    assert waits.rule == "rest"
    assert waits.digest == probe(2).digest()
    assert [(d.before, d.after) for d in waits.differences] == [(0.01, 0.012)]


def test_a_probe_is_refused_if_one_of_its_candidates_is() -> None:
    rules = [
        {"name": "large", "max_factor": 1.15, "approvers": ["human"]},
        {"name": "trial", "commands": ["probe"], "approvers": ["auto"]},
    ]
    ruling = verdict(probe(2), approval=rules)
    assert (ruling.decision, ruling.decided_by) == ("rejected", "rule:none")


def test_of_the_questions_that_a_probe_raises_the_strictest_is_asked() -> None:
    """A person is asked before a model, and silence is a yes only where it would be for every candidate."""
    lenient = {"max_factor": 1.15, "approvers": ["model", "human"], "on_timeout": "approve"}
    strict = {"approvers": ["human"], "on_timeout": "reject"}
    waits = ask(probe(2), approval=[{"name": "lenient", **lenient}, {"name": "strict", **strict}])
    assert isinstance(waits, ApprovalRequest)
    assert (waits.rule, waits.asked, waits.on_timeout) == ("strict", "human", "reject")
    assert [(d.before, d.after) for d in waits.differences] == [(0.01, 0.011), (0.01, 0.012)]
    both = ask(probe(1), approval=[{"name": "lenient", **lenient}, {"name": "also", **lenient, "max_factor": 9}])
    assert isinstance(both, ApprovalRequest)
    assert both.on_timeout == "approve"


def test_what_a_probe_as_a_whole_may_not_is_no_candidates_fault() -> None:
    ruling = verdict(probe(2), budgets=BudgetSettings(max_commands=0))
    assert ruling.decided_by == "guardrail:budget"
    assert "candidate" not in ruling.reason


def test_the_candidates_of_a_probe_that_pass_are_named_whole_or_not_at_all() -> None:
    ruling = verdict(probe(2), bounds={"lr": [None, 0.0115]})
    assert ruling.reason.startswith("candidate 1 (from 0): ")
    nearest = (ruling.nearest_allowed or {})["candidates"]
    assert [one["lr"] for one in nearest] == [pytest.approx(0.011), pytest.approx(0.0115)]
    rates = [{"kind": "update_optimizer", "lr": 0.02}, {"kind": "set_knob", "name": "nothing", "value": 1.0}]
    mixed = propose("probe", candidates=rates, steps=5)
    assert verdict(mixed, bounds={"lr": [None, 0.0115]}).nearest_allowed is None, "the other has no such value"
    known = done(48, lr=0.02)
    resting = verdict(probe(2), RUN, CommandHistory([known]), cooldown_steps=10)
    assert resting.decided_by == "guardrail:cooldown"
    assert resting.nearest_allowed == {"based_on_step": 58}, "from which on both are allowed"


def test_two_candidates_with_the_same_limit_become_one() -> None:
    ruling = verdict(probe(3), bounds={"lr": [None, 0.0105]})
    assert [one["lr"] for one in (ruling.nearest_allowed or {})["candidates"]] == [pytest.approx(0.0105)]


# -- what the trainer could only fail at -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "nearest"),
    [
        ({"shape": "linear", "warmup_steps": 60}, {"warmup_steps": 49}),
        ({"shape": "linear", "warmup_steps": 49}, None),
        ({"shape": "wsd", "warmup_steps": 10, "decay_steps": 41}, {"decay_steps": 40}),
        ({"shape": "wsd", "warmup_steps": 10, "decay_steps": 40}, None),
        ({"shape": "linear", "end_step": 50}, {"end_step": 51}),
        ({"shape": "linear", "end_step": 51}, None),
        ({"shape": "linear", "warmup_steps": 5, "start_lr": 0.02}, {"start_lr": 0.01}),
        ({"shape": "linear", "warmup_steps": 5, "start_lr": 0.01}, None),
    ],
)
def test_a_plan_that_does_not_fit_is_answered_with_the_limit_that_it_missed(
    asked: dict[str, Any], nearest: dict[str, Any] | None
) -> None:
    ruling = verdict(propose("update_schedule", **asked))
    assert (ruling.decision == "approved") is (nearest is None)
    if nearest is not None:
        assert (ruling.decided_by, ruling.nearest_allowed) == ("guardrail:feasible", nearest)


def test_clamping_is_of_bounds_and_factors_and_of_nothing_else() -> None:
    asked = propose("update_schedule", shape="linear", end_step=50)
    refusal = verdict(asked, clamp=True)
    assert (refusal.decision, refusal.decided_by) == ("rejected", "guardrail:feasible")
    assert verdict(propose(lr=0.02), clamp=True, bounds={"lr": [0, 0.015]}).decision == "edited"


def test_what_was_clamped_goes_the_way_of_the_rules() -> None:
    """A person is not asked for what nobody proposed: the refusal stays."""
    limits = {"clamp": True, "bounds": {"lr": [0, 0.015]}}
    asked = propose(lr=0.02)
    assert verdict(asked, **limits, approval=[{"approvers": ["human"]}]).decision == "rejected"
    for condition, decision in ("steps_left == 50", "edited"), ("steps_left < 50", "rejected"):
        rule = {"approvers": ["rule"], "approve_if": condition}
        assert verdict(asked, **limits, approval=[rule]).decision == decision


def test_a_plan_from_a_rate_of_zero_needs_a_peak() -> None:
    stands = standing_still(0.0)
    ruling = verdict(propose("update_schedule", shape="linear"), stands)
    assert ruling.decided_by == "guardrail:feasible"
    assert "needs a peak_lr" in ruling.reason
    assert verdict(propose("update_schedule", shape="linear", peak_lr=0.01), stands).decision == "approved"


def test_a_plan_is_looked_at_where_the_rate_is_not_known() -> None:
    unknown = RUN.model_copy(update={"knobs": []})
    fits = propose("update_schedule", shape="linear", warmup_steps=5, start_lr=2.0)
    assert verdict(fits, unknown).decision == "approved"
    late = propose("update_schedule", shape="linear", end_step=50)
    assert verdict(late, unknown).decided_by == "guardrail:feasible"


def test_a_run_that_has_not_told_its_end_is_waited_for_unless_the_plan_has_an_end_of_its_own() -> None:
    early = at(50, None)
    assert verdict(propose("update_schedule", shape="linear"), early).decision == "approved"
    assert verdict(propose("update_schedule", shape="linear", end_step=50), early).decided_by == "guardrail:feasible"
    told = early.model_copy(update={"capabilities": ["update_schedule"]})
    assert "give end_step" in verdict(propose("update_schedule", shape="linear"), told).reason


def test_the_plan_of_before_comes_back_where_one_is_known_or_nothing_is() -> None:
    asked = propose("update_schedule", shape="previous")
    assert verdict(asked).decided_by == "guardrail:feasible"
    unknown = RUN.model_copy(update={"schedule": None})
    assert verdict(asked, unknown, bounds={"lr": [0, 0.02]}).decision == "approved"


@pytest.mark.parametrize("now", [None, "NaN", "Infinity"])
def test_a_knob_whose_value_is_no_number_now_takes_one(now: str | None) -> None:
    info = run([0.01], step=50, noise=1.0)
    knob = info.knobs[1].model_copy(update={"command": "set_knob", "effective": now})
    info = info.model_copy(update={"knobs": [info.knobs[0], knob]})
    assert verdict(propose("set_knob", name="noise", value=0.5), info).decision == "approved"
    named = info.model_copy(update={"knobs": [knob.model_copy(update={"effective": "slow"})]})
    assert verdict(propose("set_knob", name="noise", value=0.5), named).decided_by == "guardrail:feasible"


# -- parameter groups --------------------------------------------------------------------------------------------------


def test_a_plan_is_judged_in_every_group() -> None:
    groups = run([0.01, 0.1], step=50)
    asked = propose("update_schedule", shape="constant", peak_lr=0.02)
    assert verdict(asked, groups, bounds={"lr": [0, 0.2]}).decision == "approved"
    ruling = verdict(asked, groups, bounds={"lr": [0, 0.15]})
    assert "lr of parameter group 1 would be 0.2" in ruling.reason
    assert ruling.nearest_allowed == {"peak_lr": pytest.approx(0.015)}


def test_groups_at_a_rate_of_zero_keep_the_ratio_that_they_had() -> None:
    groups = standing_still(0.0, 0.0, ratios=[1.0, 10.0])
    assert verdict(propose(lr=0.01), groups, bounds={"lr": [0, 0.1]}).decision == "approved"
    ruling = verdict(propose(lr=0.01), groups, bounds={"lr": [0, 0.05]})
    assert "lr 0.1 of parameter group 1 is outside" in ruling.reason
    plan = propose("update_schedule", shape="constant", peak_lr=0.01)
    assert verdict(plan, groups, bounds={"lr": [0, 0.05]}).decided_by == "guardrail:bounds"


@pytest.mark.parametrize(("lr", "is_allowed"), [(0.011, False), (0.01, True), (0.0099, True), (0.005, True)])
def test_a_group_that_is_above_its_bound_already_may_stay_or_come_down(lr: float, is_allowed: bool) -> None:
    """Its rate is ten times the one that is asked for, and twice the bound."""
    groups = run([0.01, 0.1], step=50)
    assert passes(groups, propose(lr=lr), bounds={"lr": [0, 0.05]}) is is_allowed


def test_a_plan_for_groups_of_which_nothing_is_known_gives_all_the_same_rate() -> None:
    groups, plan = standing_still(0.0, 0.0), propose("update_schedule", shape="constant", peak_lr=0.01)
    assert verdict(plan, groups, bounds={"lr": [0, 0.05]}).decision == "approved"
    assert verdict(plan, groups, bounds={"lr": [0, 0.005]}).nearest_allowed == {"peak_lr": pytest.approx(0.005)}


def test_a_group_that_lacks_a_value_is_not_compared() -> None:
    """Groups of unlike optimizers: one of them has no weight decay."""
    info = run([0.01, 0.01], step=50)
    decay = KnobState(name="weight_decay", effective=0.1, groups=[0.1, None])
    info = info.model_copy(update={"knobs": [info.knobs[0], decay]})
    assert rule_of(propose(weight_decay=0.2), {"max_factor": 2}, info=info)
    assert not rule_of(propose(weight_decay=0.21), {"max_factor": 2}, info=info)
    assert verdict(propose(weight_decay=0.2), info, max_change_factor=2).decision == "approved"


def test_a_rule_with_a_factor_does_not_speak_of_what_cannot_be_compared() -> None:
    assert not rule_of(propose(eps=1e-8), {"max_factor": 1000}), "nobody knows its value of now"
    zero = run([0.01], step=50, weight_decay=0.0)
    assert not rule_of(propose(weight_decay=0.001), {"max_factor": 1000}, info=zero)
    assert rule_of(propose(weight_decay=0.0), {"max_factor": 1.01}, info=zero), "it stays as it is"


@pytest.mark.parametrize(
    ("peak", "fits"), [(0.02, True), (0.0201, False), (0.005, True), (0.00499, False), (0.01, True)]
)
def test_the_factor_of_a_plan_is_told_up_and_down(peak: float, fits: bool) -> None:
    asked = propose("update_schedule", shape="constant", peak_lr=peak)
    assert bool(rule_of(asked, {"max_factor": 2})) is fits
    assert bool(rule_of(probe_of(asked), {"max_factor": 2})) is fits


def probe_of(*proposals: Proposal) -> Proposal:
    candidates = [{"kind": p.command.kind, **p.command.arguments()} for p in proposals]
    return propose("probe", candidates=candidates, steps=5)


def condition_holds(condition: str, proposal: Proposal, history: CommandHistory | None = None) -> bool:
    rule = {"approvers": ["rule"], "approve_if": condition}
    return verdict(proposal, RUN, history, approval=[rule]).decision == "approved"


def test_a_condition_on_the_factor_does_not_hold_for_what_cannot_be_compared() -> None:
    assert condition_holds("factor <= 2", propose(lr=0.02))
    assert not condition_holds("factor <= 2", propose(lr=0.02, other={"amsgrad": True}))
    assert not condition_holds("factor <= 1000", propose("do_evaluate"))
    mixed = probe_of(propose(lr=0.02), propose(lr=0.05))
    assert condition_holds("factor <= 5", mixed)
    assert not condition_holds("factor < 5", mixed)


def test_conditions_know_the_moment_of_the_run() -> None:
    asked = propose(lr=0.02)
    assert condition_holds("step == 50 and max_steps == 100 and steps_left == 50 and progress == 0.5", asked)
    assert condition_holds("steps_since_command > 1000000 and commands == 0", asked)
    history = CommandHistory(
        [done(20, lr=0.02), done(40, lr=0.02).model_copy(update={"submitted_step": 35})], lambda: 7
    )
    assert condition_holds("steps_since_command == 10 and commands == 7", asked, history)
    queued = CommandHistory([done(45, lr=0.02).model_copy(update={"ack": None})], lambda: 1)
    assert condition_holds("steps_since_command == 5", asked, queued)
    assert condition_holds("now('lr') == 0.01 and to('lr') == 0.02", asked)
    plan = propose("update_schedule", shape="constant", peak_lr=0.03)
    assert condition_holds("to('lr') == 0.03", plan)


def test_conditions_know_the_largest_value_of_all_groups() -> None:
    groups = run([0.01, 0.1], step=50)
    rule = {"approvers": ["rule"], "approve_if": "to('lr') == 0.2 and now('lr') == 0.1"}
    assert verdict(propose(lr=0.02), groups, approval=[rule]).decision == "approved"


@pytest.mark.parametrize(
    ("step", "branch", "by"), [(60, "main", None), (61, "main", "clock"), (50, "retry", "restore")]
)
def test_a_request_for_a_world_that_is_gone_says_whose_doing_that_was(step: int, branch: str, by: str | None) -> None:
    asked = propose(lr=0.02, valid_until_step=60)
    request = ask(asked, approval=[{"approvers": ["human"]}])
    assert isinstance(request, ApprovalRequest)
    gone = stale(request, asked, RUN.model_copy(update={"step": step, "branch": branch}))
    assert (gone.decided_by if gone else None) == by


def test_conditions_know_the_goal_metric() -> None:
    rule = {"approvers": ["rule"], "approve_if": "metric < 2"}
    gate = Gate(GateSettings.model_validate({"approval": [rule]}), BudgetSettings())
    for value, decision in (1.9, "approved"), (2.0, "rejected"), (None, "rejected"):
        ruling = gate.judge(propose(lr=0.02), Moment(RUN, Instant(0.0), value), CommandHistory())
        assert isinstance(ruling, Verdict)
        assert ruling.decision == decision


def test_a_value_of_now_is_of_the_knob_that_is_named() -> None:
    info = run([0.01], step=50, weight_decay=0.3)
    rule = {"approvers": ["rule"], "approve_if": "now('weight_decay') == 0.3"}
    assert verdict(propose(lr=0.02), info, approval=[rule]).decision == "approved"


# -- factors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bound", "value"), [("minimum", -0.1), ("maximum", 1.1)])
def test_a_knob_with_one_bound_has_that_one(bound: str, value: float) -> None:
    info = run([0.01], step=50, noise=0.5)
    knob = info.knobs[1].model_copy(update={"command": "set_knob", bound: 0.0 if bound == "minimum" else 1.0})
    info = info.model_copy(update={"knobs": [knob]})
    ruling = verdict(propose("set_knob", name="noise", value=value, author=OPERATOR), info)
    assert ruling.decided_by == "guardrail:bounds"
    assert verdict(propose("set_knob", name="noise", value=-value, author=OPERATOR), info).decision == "approved"


def noise_off(maximum: float | None = None) -> RunInfo:
    info = run([0.01], step=50, noise=0.0)
    knob = info.knobs[1].model_copy(update={"command": "set_knob", "maximum": maximum})
    return info.model_copy(update={"knobs": [knob]})


def test_from_zero_a_knob_may_rise_to_its_own_maximum_over_the_factor() -> None:
    for value, maximum, is_allowed in (0.1, 1.0, True), (0.11, 1.0, False), (0.01, None, False):
        asked = propose("set_knob", name="noise", value=value)
        ruling = verdict(asked, noise_off(maximum), max_change_factor=10)
        assert (ruling.decision == "approved") is is_allowed
    assert "no earlier value to compare it with" in ruling.reason


def test_from_zero_a_group_may_rise_to_what_it_had_itself() -> None:
    info = run([0.01, 0.01], step=50, weight_decay=[0.0, 0.0])
    before = Change(
        name="weight_decay", previous=0.5, requested=0.0, effective=0.0, groups=[0.0, 0.0], previous_groups=[0.5, 0.01]
    )
    history = CommandHistory([done(40, before, weight_decay=0.0)])
    asked = propose(weight_decay=0.05, param_group=1)
    assert verdict(asked, info, history, max_change_factor=5).decision == "approved"
    ruling = verdict(asked, info, history, max_change_factor=4)
    assert ruling.nearest_allowed == {"weight_decay": pytest.approx(0.04)}
    assert "was 0.01 before it was set to 0" in ruling.reason
    assert verdict(propose(weight_decay=2.0, param_group=0), info, history, max_change_factor=4).decision == "approved"


def test_to_set_what_is_in_force_is_no_change_also_at_zero() -> None:
    still = standing_still(0.0)
    assert verdict(propose(lr=0.0), still, max_change_factor=2).decision == "approved"
    assert verdict(propose(lr=0.01), still, max_change_factor=2).decided_by == "guardrail:change_factor"
    zero = run([0.01], step=50, weight_decay=0.0)
    assert verdict(propose(weight_decay=0.0), zero, max_change_factor=2).decision == "approved"


def test_the_reason_of_a_factor_says_from_where_to_where_and_what_came_before() -> None:
    info = run([0.01], step=50, weight_decay=0.1, max_grad_norm=1.0)
    limits = {"window": {"steps": 20, "max_change_factor": 4}}
    assert "weight_decay would change from 0.1 to 0.5, by" in verdict(propose(weight_decay=0.5), info, **limits).reason
    assert "weight_decay would go from 0.1 to 0, by" in verdict(propose(weight_decay=0.0), info, **limits).reason
    off = verdict(propose("update_training", max_grad_norm=0.0), info, **limits)
    assert "max_grad_norm 1 would be switched off" in off.reason
    assert off.nearest_allowed == {"max_grad_norm": 4.0}
    doubled = Change(name="weight_decay", previous=0.05, requested=0.1, effective=0.1)
    history = CommandHistory([done(45, doubled, weight_decay=0.1)])
    after = verdict(propose(weight_decay=0.3), info, history, **limits)
    assert "after it was changed 2-fold" in after.reason
    assert after.nearest_allowed == {"weight_decay": pytest.approx(0.2)}
    assert verdict(propose(weight_decay=0.2), info, history, **limits).decision == "approved"


@pytest.mark.parametrize(("lr", "is_allowed"), [(0.005, True), (0.00499, False), (0.02, True), (0.0201, False)])
def test_a_plan_within_the_window_counts_by_how_far_it_took_the_rate_down_and_up(lr: float, is_allowed: bool) -> None:
    plan = Change(name="schedule", previous="", requested="", effective="").model_copy(
        update={"name": "lr", "factors": [(0.5, 2.0)]}
    )
    history = CommandHistory([done(45, plan, kind="update_schedule", shape="linear")])
    window = {"steps": 20, "max_change_factor": 4}
    assert (verdict(propose(lr=lr), RUN, history, window=window).decision == "approved") is is_allowed


def test_a_rate_in_a_warm_up_is_answered_with_one_whose_peak_is_allowed() -> None:
    """At half the warm-up, 0.01 now means 0.02 at its end."""
    info = run([0.01], 0, lambda t: min(1.0, (t + 1) / 2))
    ruling = verdict(propose(lr=0.01), info, bounds={"lr": [0, 0.015]})
    assert ruling.decided_by == "guardrail:bounds"
    assert ruling.nearest_allowed == {"lr": pytest.approx(0.0075)}
    assert verdict(propose(lr=0.0075), info, bounds={"lr": [0, 0.015]}).decision == "approved"


# -- limits that guard nothing -----------------------------------------------------------------------------------------


def test_a_limit_that_this_run_has_nothing_for_is_told_with_what_may_be_meant() -> None:
    knobs = run([0.01], step=50, temperature=1.0).knobs
    limits = {"temperatur": [0, 1], "rows": [0, 1], "weights": [0, 1], "zzz": [0, 1]}
    info = RUN.model_copy(update={"rules": {"gate": {"bounds": limits}}})
    dataset = DatasetRead(type="Corpus", interactive=True, initialization={"rows": 9}, runtime={"weights": 1.0})
    told = guards_nothing(info, knobs, dataset)
    assert len(told) == 2
    assert "gate.bounds.temperatur protects nothing: this run has no knob 'temperatur'; did you mean" in told[0]
    assert told[0].endswith("did you mean 'temperature'? it has: lr, rows, temperature, weights")
    assert "did you mean" not in told[1]
    assert len(guards_nothing(info, knobs, None)) == 4
