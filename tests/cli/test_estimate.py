"""What a run will cost is told before it starts, with what it rests on; and who decides is told when it starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agenttune.config import WakeSettings
from agenttune.launch import make_plan
from agenttune.launch.estimate import paced, probes_ahead
from agenttune.launch.study.study import study_started
from agenttune.launch.study.study_log import StudyJournal
from agenttune.policy.llm.llm_policy import LlmFile
from agenttune.policy.llm.pacing import Pacing
from agenttune.policy.lookahead import Lookahead, LookaheadFile
from agenttune.protocol.events import Decided, Found, Probed, StatusChanged, TrialResult
from agenttune.protocol.findings import Finding
from agenttune.protocol.metrics import Point
from agenttune.protocol.model_calls import ModelCalled, Usage
from agenttune.protocol.proposals import Ack, Author, Change, CommandRecord, Proposal, State
from agenttune.protocol.run_info import KnobState
from tests.cli.conftest import Project, agenttune
from tests.cli.history import new_log
from tests.policy.conftest import observe

MODEL = """
llm:
  model: gpt-x
  base_url: http://127.0.0.1:9/v1
"""
PRICES = """\
  prices:
    gpt-x: {input_usd: 2.0, output_usd: 8.0}
"""


def config(project: Project, policy: str, more: str = "") -> None:
    project.write(more=more)
    path = project.folder / "config.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("policy: noop", f"policy: {policy}"), encoding="utf-8")


def estimated(project: Project, *args: str) -> dict[str, Any]:
    shown = agenttune("estimate", "--json", *args, cwd=project.folder)
    assert shown.code == 0, shown.err
    found: dict[str, Any] = json.loads(shown.out)
    return found


def recorded(project: Project, name: str, calls: int, status: str = "finished", step: int = 400) -> None:
    """A former run in which each decision took one call of 2000 tokens in and 100 out."""
    log = new_log(project.runs_dir / name)
    for index in range(calls):
        usage = Usage(input_tokens=2000, output_tokens=100)
        call = ModelCalled(
            policy="llm", purpose="decide", model="gpt-x", endpoint="http://h", protocol="tools", usage=usage, usd=0.0
        )
        log.append(call, Decided(policy="default", woken_by=f"evaluation at step {index}"), step=index)
    log.append(StatusChanged(status=status), step=step)
    log.update_info(step=step)
    log.close()


@pytest.mark.parametrize("policy", ["guardian", "default"])
def test_rules_call_no_model_and_it_says_so(project: Project, policy: str) -> None:
    config(project, policy)
    found = estimated(project, "--steps", "1000")
    assert (found["models"], found["steps"]) == ([], 1000)
    assert "no language model will be called" in found["notes"]
    assert "calls      0\n" in agenttune("estimate", "--steps", "1000", cwd=project.folder).out, "but trials may"
    config(project, "greedy_lr")
    assert "calls      0: it costs nothing" in agenttune("estimate", "--steps", "1000", cwd=project.folder).out


def test_steps_are_asked_for_where_no_run_tells_them(project: Project) -> None:
    config(project, "default", MODEL)
    asked = agenttune("estimate", cwd=project.folder)
    assert asked.code == 2
    assert "--steps" in asked.err
    recorded(project, "demo-1", 0, status="failed")
    assert agenttune("estimate", cwd=project.folder).code == 2
    recorded(project, "demo-2", 0, step=600)
    found = estimated(project)
    assert (found["steps"], found["steps_from"]) == (600, "as in demo-2")


def test_without_records_prompts_are_rendered_and_that_is_said(project: Project) -> None:
    config(project, "llm", MODEL)
    found = estimated(project, "--steps", "1000")
    [model] = found["models"]
    assert model["decisions"]["low"] == paced(LlmFile(type="llm"), WakeSettings(), 1000)
    assert model["recorded_calls"] == 0
    per_call = model["input_tokens"]["low"] / model["calls"]["low"]
    assert 1000 < per_call < 20_000
    assert model["usd"] is None
    assert any("unknown price of gpt-x" in note for note in found["notes"])
    assert any("rendered prompts" in note for note in found["notes"])
    text = agenttune("estimate", "--steps", "1000", cwd=project.folder).out
    assert "money      unknown price of gpt-x" in text


def test_records_of_former_runs_and_prices_make_it_exact(project: Project) -> None:
    config(project, "llm", MODEL + PRICES)
    recorded(project, "demo-1", 12)
    found = estimated(project)
    [model] = found["models"]
    assert model["recorded_calls"] == 12
    low = model["calls"]["low"]
    assert model["input_tokens"]["low"] == pytest.approx(2000 * low)
    assert model["usd"]["low"] == pytest.approx(low * (2000 * 2.0 + 100 * 8.0) / 1e6)
    assert model["decisions"]["high"] == model["decisions"]["low"] + 12
    assert not any("rendered" in note for note in found["notes"])


def test_caps_are_named_with_the_step_where_they_end_the_calls(project: Project) -> None:
    config(project, "llm", MODEL + PRICES + "budgets: {max_calls: 5, max_usd: 1000.0}\n")
    found = estimated(project, "--steps", "1000")
    [cap] = found["caps"]
    assert cap["cap"] == "max_calls"
    low = found["models"][0]["calls"]["low"]
    assert cap["at_step_quiet"] == int(1000 * 5 / low)
    assert cap["at_step_busy"] < cap["at_step_quiet"]
    assert "max_calls 5 is reached about step" in agenttune("estimate", "--steps", "1000", cwd=project.folder).out


def test_a_reviewer_is_counted_too_and_an_escalation_without_cadence_less(project: Project) -> None:
    config(project, "llm_reviewed", MODEL)
    roles = [model["role"] for model in estimated(project, "--steps", "500")["models"]]
    assert sorted(roles) == ["decides", "reviews"]
    text = "type: escalation\npolicies: [guardian, llm]\nescalate_on: [finding]\n"
    (project.folder / "rare.yaml").write_text(text, encoding="utf-8")
    config(project, "rare.yaml", MODEL)
    assert estimated(project, "--steps", "500")["models"][0]["decisions"]["low"] == 0


PACE = LlmFile(type="llm", every_steps=100, early_every_steps=25, early_until_step=100)


@pytest.mark.parametrize(
    ("steps", "every", "count"),
    [(19, 20, 0), (20, 20, 1), (100, 20, 3), (1000, 20, 12), (1000, 500, 2)],
)
def test_the_pace_is_that_of_the_loop_and_of_the_policy(steps: int, every: int, count: int) -> None:
    # Woken at 20: asked; early every 25 steps, so at 60 and 100; then every 100.
    assert paced(PACE, WakeSettings(every_steps=every, early_until_step=0), steps) == count
    pacing, asked = Pacing(PACE.every_steps, PACE.early_every_steps, PACE.early_until_step, PACE.max_wait_steps), 0
    for step in range(every, steps + 1, every):
        if not pacing.why_not_now(observe([1.0] * step).model_copy(update={"woken_by": [f"{every} steps"]})):
            pacing.asked(step)
            asked += 1
    assert asked == count, "the policy itself has another pace"


AHEAD = LookaheadFile(type="lookahead", factors=[0.3, 3.0])
SEARCH = LookaheadFile(
    type="lookahead", factors=[0.1, 10.0], narrow_factors=[0.5, 2.0], every_steps="10%", rest_steps=60, confirm_steps=30
)
BY_TIME = Path(__file__).resolve().parents[1] / "data" / "before" / "2026-11-27" / "policies" / "lookahead.yaml"
"""As it was shipped once: every 200 steps, whatever is found."""
BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "lookahead.json"


@pytest.mark.quick("60-*", "81-*", "500-*", "3000-20-*", "3000-1-True-search")
@pytest.mark.parametrize("file", [AHEAD, SEARCH], ids=["ahead", "search"])
@pytest.mark.parametrize("adopts", [False, True])
@pytest.mark.parametrize(("steps", "pace"), [(60, 20), (81, 20), (500, 20), (3000, 20), (3000, 1)])
def test_probes_are_counted_as_the_policy_asks_for_them(
    file: LookaheadFile, steps: int, pace: int, adopts: bool
) -> None:
    policy, asked = Lookahead("lookahead", file), list[CommandRecord]()
    rate = KnobState(name="lr", base=1e-3, effective=1e-3)
    for step in range(pace, steps + 1, pace):
        seen = observe([1.0] * step, commands=asked, max_steps=steps)
        seen = seen.model_copy(update={"capabilities": ["probe"], "knobs": [rate]})
        for draft in policy.decide(seen).proposals:
            changes = [Change(name="lr", previous=1.0, requested=2.0, effective=2.0)] if adopts else []
            proposal = Proposal(
                command=draft.command,
                author=Author(principal="agent", name="a"),
                rationale=draft.rationale,
                based_on_step=step,
            )
            ack = Ack(outcome="applied", step=step, changes=changes)
            asked.append(
                CommandRecord(proposal=proposal, state=State.APPLIED, ack=ack, submitted_seq=step, submitted_step=step)
            )
    assert probes_ahead(file, steps, pace, adopts) == len(asked)


def test_what_probes_really_took_lies_within_the_estimate(project: Project) -> None:
    config(project, str(BY_TIME))
    measured = json.loads(BENCHMARK.read_text(encoding="utf-8"))
    probes = estimated(project, "--steps", str(measured["steps"]))["probes"]
    taken = {outcome["extra_steps"] for outcome in measured["outcomes"]}
    assert probes["extra_steps"]["low"] <= min(taken)
    assert max(taken) <= probes["extra_steps"]["high"]
    assert probes["probes"]["low"] <= 4 <= probes["probes"]["high"]


def test_extra_steps_end_where_the_budget_ends_them(project: Project) -> None:
    config(project, str(BY_TIME), "budgets: {max_probe_frac: 0.1, max_probe_steps: 170}\n")
    probes = estimated(project, "--steps", "2000")["probes"]
    assert (probes["cap"], probes["capped"]) == ("budgets.max_probe_steps", True)
    assert probes["extra_steps"]["high"] == 150, "the gate refuses what does not fit as a whole"
    text = agenttune("estimate", "--steps", "2000", cwd=project.folder).out
    assert "at most 150 by budgets.max_probe_steps" in text
    assert "it costs nothing" not in text
    config(project, str(BY_TIME), "gate: {forbid: [probe]}\n")
    assert estimated(project, "--steps", "2000")["probes"] is None


def test_time_and_money_of_probes_come_from_a_former_run_and_the_price_of_an_hour(project: Project) -> None:
    config(project, str(BY_TIME))
    unknown = estimated(project, "--steps", "1000")["probes"]
    assert (unknown["seconds"], unknown["usd"]) == (None, None)
    assert any("no past run" in why for why in unknown["unknown"])
    assert any("gate.usd_per_hour" in why for why in unknown["unknown"])
    log = new_log(project.runs_dir / "demo-1")
    log.append_points([Point(step=n, at_s=0.0, values={"step_time_s": 0.5}) for n in range(1, 400)])
    plateau = Finding(kind="plateau", severity="warning", metric="step_loss", step=200, summary="flat")
    log.append(*[Found(finding=plateau)] * 3, StatusChanged(status="finished"), step=400)
    log.update_info(step=400)
    config(project, str(BY_TIME), "gate: {usd_per_hour: 3.6}\n")
    priced = estimated(project, "--steps", "1000")["probes"]
    paced_only = probes_ahead(AHEAD, 1000, 1, adopts=True)
    assert priced["probes"]["high"] == round(paced_only + 3 * 1000 / 400)
    assert (priced["step_s"], priced["timed_by"][:19]) == (0.5, "the steps of demo-1")
    for side in ("low", "high"):
        assert priced["usd"][side] == pytest.approx(priced["extra_steps"][side] * 0.5 * 3.6 / 3600)
    trials = [TrialResult(name="probe:1:0", steps=10, took_s=6.0)]
    log.append(Probed(trials=trials, extra_steps=10, extra_s=8.0), step=300)
    log.close()
    assert estimated(project, "--steps", "1000")["probes"]["step_s"] == 0.8, "with going back"
    assert "as the probes of demo-1" in agenttune("estimate", "--steps", "1000", cwd=project.folder).out


def test_probes_that_only_findings_ask_for_cost_nothing_where_past_runs_had_none(project: Project) -> None:
    config(project, "lookahead")
    probes = estimated(project, "--steps", "1000")["probes"]
    assert probes["extra_steps"] == {"low": 0, "high": 180}, "two of three trials of 3 %"
    log = new_log(project.runs_dir / "demo-1")
    plateau = Finding(kind="plateau", severity="warning", metric="step_loss", step=200, summary="flat")
    log.append(Found(finding=plateau), StatusChanged(status="finished"), step=400)
    log.update_info(step=400)
    log.close()
    assert estimated(project, "--steps", "1000")["probes"]["extra_steps"] == {"low": 0, "high": 0}


def test_a_model_may_probe_as_it_likes_up_to_the_cap_and_that_is_said(project: Project) -> None:
    config(project, "llm", MODEL)
    probes = estimated(project, "--steps", "1000")["probes"]
    assert (probes["probes"], probes["extra_steps"]) == (None, {"low": 0, "high": 200})
    assert any("as it likes; budgets.max_probe_frac is the only limit" in why for why in probes["unknown"])
    config(project, "llm", MODEL + "budgets: {max_probe_frac: null}\n")
    assert estimated(project, "--steps", "1000")["probes"]["extra_steps"] is None
    assert "any number of extra steps" in agenttune("estimate", "--steps", "1000", cwd=project.folder).out
    config(project, "noop")
    assert estimated(project, "--steps", "1000")["probes"] is None


RULE = """\
type: rules
description: Tries more now and then.
rules:
  - name: try_more
    when: step > 10
    do:
      command: probe
      candidates: [{{kind: update_optimizer, lr: "=lr * 2"}}, {{kind: update_optimizer, lr: "=lr * 4"}}]
      steps: {steps}
    because: why not
{more}"""


@pytest.mark.parametrize(
    ("steps", "more", "most"),
    [
        ("20", "    max_times: 2\n", 2 * 3 * 20),
        ("=round(clamp(0.025 * max_steps, 6, 200))", "    max_times: 1\n", 3 * 25),
        ("=round(10 * lr)", "    max_times: 1\n", 200),
        ("20", "", 200),
    ],
    ids=["fixed", "by the length of the run", "by what is not known yet: the cap", "as often as it likes: the cap"],
)
def test_probes_of_a_rule_are_bounded_by_what_its_file_says(project: Project, steps: str, more: str, most: int) -> None:
    (project.folder / "tries.yaml").write_text(RULE.format(steps=steps, more=more), encoding="utf-8")
    config(project, "./tries.yaml")
    probes = estimated(project, "--steps", "1000")["probes"]
    assert probes["extra_steps"] == {"low": 0, "high": most}
    assert (probes["probes"] is None) == (most == 200)


def test_guardian_tries_a_higher_rate_twice_at_most(project: Project) -> None:
    config(project, "guardian")
    probes = estimated(project, "--steps", "1000")["probes"]
    assert (probes["probes"], probes["extra_steps"]) == ({"low": 0, "high": 2}, {"low": 0, "high": 100})


def test_check_and_run_say_that_the_rules_are_alone(project: Project) -> None:
    config(project, "default")
    said = "no language model"
    assert said in agenttune("check", cwd=project.folder).out
    path = project.folder / "config.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("[--steps, 20]", "[--steps, 100000]"), encoding="utf-8")
    launched = project.start()
    launched.wait_for_event("policy_attached")  # a short run may have ended before
    launched.stop_training()
    result = launched.end()
    assert result.code == 0, result.err
    assert "running on rules alone (guardian)" in " ".join(result.out.split())
    attached = json.loads(launched.events("policy_attached")[0])
    assert said in attached["details"]["notice"]
    config(project, "default", MODEL)
    assert said not in agenttune("check", cwd=project.folder).out


def test_the_default_runs_without_a_key(tmp_path: Path, project: Project) -> None:
    config(project, "default", "\nllm: {model: gpt-x}\n")
    assert "OPENAI_API_KEY" in agenttune("check", cwd=project.folder).out


# -- the rounds of a study ---------------------------------------------------------------------------------------------

ROUNDS = """
rounds:
  count: {count}
  references: {references}
  plan_only: {plan_only}
  parameters: {{lr: {{argument: --lr, minimum: 1.0e-4, maximum: 1.0}}}}
"""


def rounds(count: int = 4, references: str = "[guardian]", plan_only: str = "true") -> str:
    return ROUNDS.format(count=count, references=references, plan_only=plan_only)


def test_rounds_cost_their_plans_and_reflections_also_where_no_run_asks_a_model(project: Project) -> None:
    """Under rules alone it said that no model would be called, for four rounds that call it at least eight times."""
    config(project, "guardian", MODEL + PRICES + rounds())
    found = estimated(project, "--steps", "1000")
    assert not any("no language model will be called" in note for note in found["notes"])
    plans, reflections = found["models"]
    assert (plans["role"], plans["calls"]) == ("plans", {"low": 4, "high": 12})
    assert (reflections["role"], reflections["calls"]) == ("reflects", {"low": 4, "high": 4})
    assert 300 < plans["input_tokens"]["low"] / 4 < 10_000
    assert plans["usd"]["low"] > 0
    assert found["study"]["untouched"] == 5
    text = agenttune("estimate", "--steps", "1000", cwd=project.folder).out
    assert "study      4 rounds, 10 runs of so many steps each: 5 untouched, 1 of guardian, 4 with the policy" in text
    assert "gpt-x plans in planner: 4 plans, 4 to 12 calls" in text
    assert "together   8 to 16 calls" in text


def test_a_study_is_estimated_as_a_whole(project: Project) -> None:
    config(project, "llm", MODEL + PRICES)
    one = estimated(project, "--steps", "1000")["models"][0]
    config(project, "llm", MODEL + PRICES + rounds(3, "[guardian, llm]", "false"))
    found = estimated(project, "--steps", "1000")
    acting, reference, *planning = found["models"]
    assert (acting["runs"], reference["runs"]) == (3, 1)
    assert acting["calls"]["high"] == pytest.approx(3 * one["calls"]["high"])
    assert acting["usd"]["low"] == pytest.approx(3 * one["usd"]["low"])
    assert reference["calls"] == one["calls"]
    assert [model["role"] for model in planning] == ["plans", "reflects"]
    assert found["study"]["untouched"] == 1


def test_later_plans_are_longer_and_caps_of_plans_are_told(project: Project) -> None:
    def per_plan(count: int) -> float:
        config(project, "guardian", MODEL + PRICES + rounds(count) + "budgets: {max_calls: 6}\n")
        found = estimated(project, "--steps", "1000")
        assert any("max_calls 6 is reached by plans and reflections" in note for note in found["notes"]) == (count > 1)
        return float(found["models"][0]["input_tokens"]["low"]) / count

    assert per_plan(1) < per_plan(4) < per_plan(40)


def test_rounds_without_a_model_end_after_the_references_and_it_says_so(project: Project) -> None:
    config(project, "guardian", rounds())
    found = estimated(project, "--steps", "1000")
    assert found["models"] == []
    assert found["study"]["acting"] == 0
    assert any("no round can be planned: no language model" in note for note in found["notes"])
    assert "no language model will be called" in found["notes"]


def test_records_of_a_former_study_make_plans_exact(project: Project) -> None:
    config(project, "guardian", MODEL + PRICES + rounds())
    folder = project.runs_dir / "demo-study-20260101-000000"
    folder.mkdir(parents=True)
    plan = make_plan(project.folder / "config.yaml")
    journal = StudyJournal(folder)
    journal.append(study_started(plan, folder.name))
    for purpose in ("plan", "plan", "reflect"):
        usage = Usage(input_tokens=1234, output_tokens=56)
        body = {"policy": "planner", "purpose": purpose, "model": "gpt-x", "endpoint": "http://h", "protocol": "json"}
        journal.append(ModelCalled.model_validate({**body, "usage": usage}), 1)
    journal.close()
    plans, reflections = estimated(project, "--steps", "1000")["models"]
    assert (plans["recorded_calls"], reflections["recorded_calls"]) == (2, 1)
    assert plans["input_tokens"]["low"] == 4 * 1234
