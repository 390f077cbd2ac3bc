"""Language models in the benchmark: their answers are kept, so that a score can be computed again without calls."""

from __future__ import annotations

from pathlib import Path

import pytest

from agenttune.bench.answers import KeptAnswers
from agenttune.bench.catalog import task_facts
from agenttune.bench.cell import Cell, Outcome, Scenario
from agenttune.bench.contenders.contender import Trial
from agenttune.bench.contenders.policy import PolicyContender, PolicySettings
from agenttune.testing.chat_request import ChatRequest
from agenttune.testing.endpoint import ScriptedEndpoint
from agenttune.testing.steps import Step, calls

FACTS = task_facts("sim_quadratic")


def play(folder: Path, answers: Path, base_url: str, model: str = "wise", seed: int = 0) -> Outcome:
    scenario = Scenario(task=FACTS.name, fault="healthy", recipe=FACTS.recipe.with_changes(steps=100, eval_every=20))
    settings = {"wake": {"every_steps": 20}, "llm": {"model": model, "base_url": base_url}}
    cell = Cell(scenario=scenario, seed=seed, split="development", contender="llm", settings=settings)
    folder.mkdir()
    contender = PolicyContender(PolicySettings(policy="llm"))
    return contender.play(Trial(cell, FACTS, folder, folder.parent, answers=answers))


def cut(request: ChatRequest) -> Step:
    """Looks, cuts the rate, then waits."""
    uses = [use for message in request.messages for use in message.get("tool_calls") or ()]
    if not uses:
        return calls(("get_metrics", {}))
    if len(uses) == 1:
        return calls(("update_optimizer", {"lr": 1e-4, "reason": "too high"}))
    return calls(("wait", {"reason": "it works", "until_step": 60}))


def test_another_endpoint_with_a_model_of_the_same_name_is_asked_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-of-the-test")
    with ScriptedEndpoint(cut) as one, ScriptedEndpoint(cut) as other:
        play(tmp_path / "one", tmp_path / "answers", one.base_url)
        play(tmp_path / "other", tmp_path / "answers", other.base_url)
        assert len(other.requests) == len(one.requests) >= 3


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("state main-12-62493a (step 12)", "state main-12-0fe219 (step 12)", True),
        ("state main-12-62493a (step 12)", "state main-13-62493a (step 13)", False),
        ("loss 0.12345678", "loss 0.12345679", False),
        ("step 100000000", "step 100000001", False),
        ("command 3fa85f6457174562b3fc2c963f66afa6", "command 3fa85f6457174562b3fc2c963f66afa7", True),
        ("command 3fa85f64-5717-4562-b3fc-2c963f66afa6", "command 12345678-5717-4562-b3fc-2c963f66afa7", True),
    ],
)
def test_ids_are_no_part_of_a_question_and_figures_are(tmp_path: Path, one: str, other: str, is_same: bool) -> None:
    answers = KeptAnswers(tmp_path)
    assert (answers.path(one) == answers.path(other)) is is_same


def test_two_workers_may_have_the_same_answer_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers, replace = KeptAnswers(tmp_path), Path.replace
    path = answers.path("what now?")

    def keep_between(aside: Path, target: Path) -> Path:
        """The other one is through with it after this one has written and before it has renamed."""
        monkeypatch.setattr(Path, "replace", replace)
        answers.keep(path, "the same")
        return replace(aside, target)

    monkeypatch.setattr(Path, "replace", keep_between)
    answers.keep(path, "the same")
    assert [(found, found.read_text("utf-8")) for found in tmp_path.iterdir()] == [(path, "the same")]


def test_the_same_questions_again_cost_no_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-of-the-test")
    answers = tmp_path / "answers"
    with ScriptedEndpoint(cut) as endpoint:
        first = play(tmp_path / "one", answers, endpoint.base_url)
        asked = len(endpoint.requests)
        assert asked >= 3
        assert "update_optimizer" in [i.kind for i in first.interventions]
        again = play(tmp_path / "two", answers, endpoint.base_url)
        assert len(endpoint.requests) == asked
        other = play(tmp_path / "three", answers, endpoint.base_url, seed=1)
        assert len(endpoint.requests) > asked
        url = endpoint.base_url
    gone = play(tmp_path / "four", answers, url)  # the endpoint is away
    assert first.trained is not None
    for outcome in (again, gone):
        assert outcome.trained is not None
        assert outcome.trained.losses == first.trained.losses
        assert outcome.interventions == first.interventions
        assert (outcome.calls, outcome.tokens_in) == (first.calls, first.tokens_in)
    assert other.trained is not None
    assert first.calls == asked + 1  # with the small call that finds out how it answers
    assert "sk-secret" not in "".join(path.read_text(encoding="utf-8") for path in answers.iterdir())
