"""What the gate refuses, it refuses with the reason and the nearest value that would have passed."""

from __future__ import annotations

from typing import Any

import pytest

from agenttune.config import BudgetSettings, GateSettings
from agenttune.gate import CommandHistory, Gate, Moment
from agenttune.protocol.deadlines import Instant
from agenttune.protocol.proposals import CommandRecord, Proposal, State, Verdict
from agenttune.protocol.run_info import RunInfo
from agenttune.store.run_log import RunLog
from tests.core.conftest import APPROVED, OPERATOR, propose


def judge(
    info: RunInfo,
    proposal: Proposal,
    budgets: BudgetSettings | None = None,
    history: list[CommandRecord] | None = None,
    **settings: Any,
) -> Verdict:
    gate = Gate(GateSettings.model_validate(settings), budgets or BudgetSettings())
    known = history or []
    ruling = gate.judge(proposal, Moment(info, Instant(0.0)), CommandHistory(known, lambda: len(known)))
    assert isinstance(ruling, Verdict)
    return ruling


@pytest.fixture
def info(with_knobs: RunLog) -> RunInfo:
    return with_knobs.info()


def test_without_settings_everything_in_the_schema_passes(info: RunInfo) -> None:
    assert judge(info, propose(lr=50.0)).decision == "approved"
    assert judge(info, propose("stop_training")).decision == "approved"


def test_bounds_name_the_nearest_allowed_value(info: RunInfo) -> None:
    verdict = judge(info, propose(lr=1.0), bounds={"lr": [1e-6, 0.1]})
    assert (verdict.decision, verdict.decided_by) == ("rejected", "guardrail:bounds")
    assert verdict.nearest_allowed == pytest.approx({"lr": 0.05})  # its base is twice the effective rate
    assert "[1e-06, 0.1]" in verdict.reason


def test_bounds_hold_for_the_rate_that_is_implied(info: RunInfo) -> None:
    """Half-way down a schedule an effective 0.08 means a base of 0.16."""
    verdict = judge(info, propose(lr=0.08), bounds={"lr": [None, 0.1]})
    assert verdict.decision == "rejected"
    assert verdict.nearest_allowed == pytest.approx({"lr": 0.05})
    assert "0.16" in verdict.reason
    assert judge(info, propose(lr=0.05), bounds={"lr": [None, 0.1]}).decision == "approved"
    assert judge(info, propose(lr=0.1, lr_sets="base"), bounds={"lr": [None, 0.1]}).decision == "approved"


def test_bounds_bind_operators_too(info: RunInfo) -> None:
    proposal = propose(author=OPERATOR, weight_decay=0.5)
    assert judge(info, proposal, bounds={"weight_decay": [0, 0.1]}).nearest_allowed == {"weight_decay": 0.1}


def test_bounds_reach_schedules_training_and_other_hyperparameters(info: RunInfo) -> None:
    assert (
        judge(info, propose("update_schedule", shape="linear", peak_lr=1.0), bounds={"lr": [0, 0.1]}).decision
        == "rejected"
    )
    assert judge(info, propose("update_training", max_steps=9), bounds={"max_steps": [10, None]}).decision == "rejected"
    verdict = judge(info, propose(other={"rho": 0.5}), bounds={"rho": [0.8, 1.0]})
    assert verdict.nearest_allowed == {"other.rho": 0.8}


def test_a_schedule_may_end_at_zero(info: RunInfo) -> None:
    proposal = propose("update_schedule", shape="linear", final_lr=0.0)
    assert judge(info, proposal, bounds={"lr": [1e-6, 0.1]}).decision == "approved"


def test_a_registered_knob_brings_its_own_bounds(info: RunInfo) -> None:
    verdict = judge(info, propose("set_knob", name="noise", value=2.0))
    assert verdict.nearest_allowed == {"value": 1.0}
    assert "the knob's own bounds" in verdict.reason


def test_the_change_factor_limits_agents_only(info: RunInfo) -> None:
    verdict = judge(info, propose(lr=5e-6), max_change_factor=10)
    assert verdict.nearest_allowed == pytest.approx({"lr": 5e-5})
    assert "from 0.0005 to 5e-06" in verdict.reason
    assert judge(info, propose(lr=5e-5), max_change_factor=10).decision == "approved"
    assert judge(info, propose(lr=5e-6, author=OPERATOR), max_change_factor=10).decision == "approved"


def test_forbidden_commands(info: RunInfo) -> None:
    verdict = judge(info, propose("stop_training", author=OPERATOR), forbid=["stop_training"])
    assert verdict.decided_by == "guardrail:forbidden"


def past(**arguments: Any) -> CommandRecord:
    return CommandRecord(
        proposal=propose(**arguments), state=State.APPLIED, verdict=APPROVED, submitted_seq=1, submitted_step=0
    )


def test_cooldown_is_per_knob_and_per_agent(info: RunInfo) -> None:
    info = info.model_copy(update={"step": 30})
    verdict = judge(info, propose(lr=1e-4), history=[past(lr=1e-3)], cooldown_steps=50)
    assert verdict.decided_by == "guardrail:cooldown"
    assert "30 steps ago" in verdict.reason
    assert judge(info, propose(lr=1e-4), history=[past(weight_decay=0.1)], cooldown_steps=50).decision == "approved"
    assert (
        judge(info, propose(lr=1e-4, author=OPERATOR), history=[past(lr=1e-3)], cooldown_steps=50).decision
        == "approved"
    )
    later = info.model_copy(update={"step": 50})
    assert judge(later, propose(lr=1e-4), history=[past(lr=1e-3)], cooldown_steps=50).decision == "approved"


def test_the_budget_is_for_agents(info: RunInfo) -> None:
    budgets = BudgetSettings(max_commands=2)
    assert judge(info, propose(lr=1e-4), budgets, [past(lr=1.0)]).decision == "approved"
    spent = [past(lr=1.0), past(lr=2.0)]
    assert judge(info, propose(lr=1e-4), budgets, spent).decided_by == "guardrail:budget"
    assert judge(info, propose("pause_training", author=OPERATOR), budgets, spent).decision == "approved"
