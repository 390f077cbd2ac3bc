"""What a run will cost is told before it starts, with what it rests on; and who decides is told when it starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agenttune.config import WakeSettings
from agenttune.estimating import paced
from agenttune.events import Decided, StatusChanged
from agenttune.policy.llm import LlmFile
from agenttune.policy.pacing import Pacing
from agenttune.transcripts import ModelCalled, Usage
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
def test_rules_cost_nothing_and_it_says_so(project: Project, policy: str) -> None:
    config(project, policy)
    found = estimated(project, "--steps", "1000")
    assert (found["models"], found["steps"]) == ([], 1000)
    assert "no language model will be called" in found["notes"]
    assert "calls      0: it costs nothing" in agenttune("estimate", "--steps", "9", cwd=project.folder).out


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
    assert paced(PACE, WakeSettings(every_steps=every), steps) == count
    pacing, asked = Pacing(PACE.every_steps, PACE.early_every_steps, PACE.early_until_step, PACE.max_wait_steps), 0
    for step in range(every, steps + 1, every):
        if not pacing.quiet(observe([1.0] * step).model_copy(update={"woken_by": [f"{every} steps"]})):
            pacing.asked(step)
            asked += 1
    assert asked == count, "the policy itself has another pace"


def test_check_and_run_say_that_the_rules_are_alone(project: Project) -> None:
    config(project, "default")
    said = "no language model"
    assert said in agenttune("check", cwd=project.folder).out
    result = project.run()
    assert result.code == 0, result.err
    assert "running on rules alone (guardian)" in " ".join(result.out.split())
    attached = json.loads(project.launched[0].events("policy_attached")[0])
    assert said in attached["details"]["notice"]
    config(project, "default", MODEL)
    assert said not in agenttune("check", cwd=project.folder).out


def test_the_default_runs_without_a_key(tmp_path: Path, project: Project) -> None:
    config(project, "default", "\nllm: {model: gpt-x}\n")
    assert "OPENAI_API_KEY" in agenttune("check", cwd=project.folder).out
