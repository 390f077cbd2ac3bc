"""A model is paid by the call: it is asked when there is something to decide, and is not woken from its own wait."""

from __future__ import annotations

from agenttune.llm.tools import ToolWait
from agenttune.policy.llm.pacing import Pacing
from agenttune.protocol.findings import Finding
from agenttune.protocol.observation import Observation
from tests.policy.conftest import decay, observe


def at(step: int, *woken_by: str, found: Finding | None = None) -> Observation:
    seen = observe(decay(step), findings=[found] if found else [])
    return seen.model_copy(update={"woken_by": list(woken_by)})


def finding(step: int, severity: str = "warning") -> Finding:
    return Finding.model_validate(
        {"kind": "divergence", "severity": severity, "metric": "step_loss", "step": step, "summary": "rose"}
    )


def paced(asked: int | None = None, wait: ToolWait | None = None) -> Pacing:
    pacing = Pacing(every_steps=100, early_every_steps=25, early_until_step=100, max_wait_steps=400)
    if asked is not None:
        pacing.asked(asked, wait)
    return pacing


def test_the_first_time_asks_also_after_a_restart() -> None:
    assert paced().why_not_now(at(500, "20 steps")) == ""


def test_the_plain_cadence_asks_only_when_enough_steps_have_passed() -> None:
    pacing = paced(asked=300)
    assert pacing.why_not_now(at(320, "20 steps")) == "nothing new; the model is asked again at step 400"
    assert pacing.why_not_now(at(400, "20 steps")) == ""


def test_early_in_a_run_it_asks_more_often() -> None:
    assert paced(asked=20).why_not_now(at(40, "20 steps")) != ""
    assert paced(asked=20).why_not_now(at(45, "20 steps")) == ""


def test_news_ask_at_once() -> None:
    for news in ("finding spike", "evaluation at step 305", "a note by alice", "c1 was approved"):
        assert paced(asked=300).why_not_now(at(305, "20 steps", news)) == ""


def test_a_finding_that_came_while_the_model_was_thinking_is_not_forgotten() -> None:
    assert paced(asked=300).why_not_now(at(320, "20 steps", found=finding(310))) == ""
    assert paced(asked=300).why_not_now(at(320, "20 steps", found=finding(300))) != ""


def test_going_back_to_a_checkpoint_is_news() -> None:
    assert paced(asked=300).why_not_now(at(200, "20 steps")) == ""


def test_a_call_that_failed_is_made_up_for() -> None:
    pacing = paced(asked=300)
    pacing.failed()
    assert pacing.why_not_now(at(301, "20 steps")) == ""


def test_a_wait_until_a_step_holds_back_evaluations_and_lesser_findings() -> None:
    pacing = paced(asked=300, wait=ToolWait(until_step=600, until_evaluation=False, until_finding=False))
    assert pacing.why_not_now(at(500, "20 steps")) == "waiting until step 600, as the model wanted at step 300"
    assert pacing.why_not_now(at(500, "evaluation at step 500")) != ""
    assert pacing.why_not_now(at(500, "finding divergence", found=finding(499))) != ""
    assert pacing.why_not_now(at(600, "20 steps")) == ""


def test_no_wait_is_for_critical_findings_or_people() -> None:
    pacing = paced(asked=300, wait=ToolWait(until_step=600, until_evaluation=False, until_finding=False))
    assert pacing.why_not_now(at(500, "finding divergence", found=finding(499, "critical"))) == ""
    assert pacing.why_not_now(at(500, "a note by alice")) == ""


def test_a_wait_ends_with_what_it_waits_for() -> None:
    evaluation = ToolWait(until_step=None, until_evaluation=True, until_finding=False)
    assert paced(300, evaluation).why_not_now(at(420, "20 steps")) != ""
    assert paced(300, evaluation).why_not_now(at(420, "evaluation at step 420")) == ""
    for_finding = ToolWait(until_step=None, until_evaluation=False, until_finding=True)
    assert paced(300, for_finding).why_not_now(at(420, "evaluation at step 420")) != ""
    assert paced(300, for_finding).why_not_now(at(420, "finding plateau", found=finding(420, "info"))) == ""


def test_a_wait_for_nothing_in_particular_leaves_the_usual_times() -> None:
    plain = ToolWait(until_step=None, until_evaluation=False, until_finding=False)
    assert paced(300, plain).why_not_now(at(320, "20 steps")) == "nothing new; the model is asked again at step 400"
    assert paced(300, plain).why_not_now(at(320, "evaluation at step 320")) == ""


def test_a_wait_for_what_never_comes_ends_all_the_same() -> None:
    never = ToolWait(until_step=10**9, until_evaluation=True, until_finding=False)
    assert paced(300, never).why_not_now(at(699, "20 steps")) != ""
    assert paced(300, never).why_not_now(at(700, "20 steps")) == ""
