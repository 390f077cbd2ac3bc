"""A made-up run of usual size, from which the length of prompts is estimated."""

from __future__ import annotations

import json
import math

from agenttune.llm.tools import offered_tools, write_kinds
from agenttune.policy.base import Draft
from agenttune.policy.llm.digest import tokens_estimate
from agenttune.policy.llm.llm_policy import LlmPolicy, messages_of
from agenttune.policy.llm.reviewer import Reviewer
from agenttune.protocol.command_schemas import ToolShape
from agenttune.protocol.commands import UpdateOptimizer
from agenttune.protocol.findings import Finding
from agenttune.protocol.observation import Evaluation, Observation, SeriesView
from agenttune.protocol.run_info import KnobState

STEPS = 500
"""Length of the run; for a longer one prompts are no longer."""


def sample_observation() -> Observation:
    """The middle of a run with a learning rate, losses, evaluations and two findings."""
    steps = list(range(1, STEPS + 1))
    losses = [1.0 + 3.0 * math.exp(-step / 150) for step in steps]
    curves = {"step_loss": losses, "step_grad_norm": losses, "lr": [1e-3] * STEPS}
    summary = "the loss fell early from 4.02 and has stopped at 1.37, within its noise of 0.03"
    return Observation(
        run_id="estimate",
        status="running",
        step=STEPS,
        max_steps=2 * STEPS,
        at_s=0.0,
        goal_metric="eval_loss",
        goal_direction="minimize",
        knobs=[KnobState(name=n, effective=v, base=v) for n, v in (("lr", 1e-3), ("weight_decay", 0.1), ("eps", 1e-8))],
        series={
            n: SeriesView(name=n, steps=steps, values=v, downsampled_steps=steps[::4], downsampled_values=v[::4])
            for n, v in curves.items()
        },
        evaluations=[
            Evaluation(step=s, metrics={"eval_loss": losses[s - 1], "eval_runtime": 1.5}) for s in range(100, 501, 100)
        ],
        findings=[
            Finding(kind="plateau", severity="warning", metric="step_loss", step=step, summary=summary)
            for step in (300, 480)
        ],
        capabilities=write_kinds(),
        not_offered=dict.fromkeys(("update_dataset", "update_dataset_runtime_hyperparameters", "set_knob"), "none"),
        commands_left=100,
        woken_by=["finding plateau"],
    )


def opening_tokens(policy: LlmPolicy) -> float:
    """Tokens of a decision's first call, estimated: the tools' schemas and both prompts."""
    shapes = sample_shapes()
    texts = [message.content or "" for message in messages_of(policy.opening(sample_observation(), shapes))]
    if policy.settings.form == "tools":
        texts += [
            json.dumps({"name": s.name, "description": s.description, "parameters": s.parameters}) for s in shapes
        ]
    return sum(map(tokens_estimate, texts))


def review_tokens(reviewer: Reviewer) -> float:
    """Tokens of a review, estimated."""
    draft = Draft(UpdateOptimizer(lr=1e-4), "the loss has stopped at 1.37; a tenth of the rate may let it fall again")
    return tokens_estimate(reviewer.prompt(draft, sample_observation()).text)


def sample_shapes() -> list[ToolShape]:
    """The tools of a run that can do everything but change a plain dataset."""
    return offered_tools(sample_observation())
