"""What a probe found reaches everybody who asks: the model's next prompt, its tools, MCP clients, `agenttune send`."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agenttune.agent import AgentLoop
from agenttune.cli.shell_tools import _tell_record
from agenttune.config import LlmSettings
from agenttune.control import LocalControl
from agenttune.control.reader import ControlReader
from agenttune.llm.tools import Toolbox
from agenttune.policy.base import PolicyContext
from agenttune.policy.llm.llm_policy import LlmFile, LlmPolicy
from agenttune.protocol.proposals import CommandRecord
from agenttune.protocol.reads import ObservationQuery
from agenttune.server.mcp.tools import RunTools
from agenttune.store.run_log import list_runs
from agenttune.testing import ChatRequest, ScriptedEndpoint, calls, says
from agenttune.testing.steps import Step
from tests.trainer.conftest import Bench

pytestmark = pytest.mark.trainer

CANDIDATES = [{"kind": "update_optimizer", "lr": 0.002}, {"kind": "update_optimizer", "lr": 0.003}]
PROBE = {"candidates": CANDIDATES, "steps": 2, "min_gain_frac": 1.0, "reason": "is the rate right?"}
"""Nothing is twice as good, so nothing is adopted, and the model must hear why."""


class Model:
    """Probes, looks at the history, and goes home."""

    def __init__(self) -> None:
        self.first: list[str] = []
        self.last = ""

    def __call__(self, request: ChatRequest) -> Step:
        self.last = request.last_text
        if len(request.messages) > 2:
            return says("I have seen it.")
        self.first.append(request.last_text)
        if len(self.first) == 1:
            return calls(("probe", PROBE))
        return calls(("read", {"what": "history"})) if len(self.first) == 2 else says("hold")


def watch(runs_dir: Path, endpoint: ScriptedEndpoint, over: threading.Event) -> Callable[[], None]:
    """The agent's loop beside the run, in a thread, as a process of its own would be."""

    def run() -> None:
        while not list_runs(runs_dir):
            time.sleep(0.01)
        run_id, control = list_runs(runs_dir)[0].run_id, LocalControl(runs_dir)
        llm = LlmSettings(model="m", base_url=endpoint.base_url, protocol="tools")
        context = PolicyContext(reader=ControlReader(control, run_id), llm=llm, environ={})
        file = LlmFile(type="llm", every_steps=4, early_every_steps=4)
        AgentLoop(control, run_id, LlmPolicy("llm", file, context)).run(over)

    return run


def test_what_a_probe_found_reaches_whoever_asked(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    result = bench.trainer(max_steps=24, eval_strategy="steps", eval_steps=8)
    bench.runs_dir.mkdir(exist_ok=True)
    rules = {"wake": {"mode": "lockstep", "every_steps": 4}, "budgets": {"max_probe_frac": None}}
    over, model = threading.Event(), Model()
    with ScriptedEndpoint(model) as endpoint:
        thread = threading.Thread(target=watch(bench.runs_dir, endpoint, over))
        thread.start()
        result.trainer.interactive.open()
        result.log().update_info(rules=rules)
        result.trainer.train()
        over.set()
        thread.join(60)
    [record] = [r for r in result.records() if r.command.kind == "probe"]
    assert record.ack is not None, record
    values = [f"{trial['value']:.4g}" for trial in record.ack.result["trials"]]
    assert len(values) == 3
    assert record.ack.message.startswith("nothing was adopted: ")
    told_next, in_history = model.first[1], model_history(result.runs_dir)
    for text in (told_next, in_history, sent(record, capsys), by_mcp(result.runs_dir)):
        assert record.ack.message in text
    assert all(value in told_next for value in values)
    exact = [trial["value"] for trial in record.ack.result["trials"]]
    [row] = json.loads(in_history)["history"]
    assert [trial["value"] for trial in row["result"]["trials"]] == exact
    assert all(str(value) in sent(record, capsys) for value in exact)
    assert all(str(value) in by_mcp(result.runs_dir) for value in exact)


def model_history(runs_dir: Path) -> str:
    reader = ControlReader(LocalControl(runs_dir), list_runs(runs_dir)[0].run_id)
    return Toolbox(reader, reader.read(ObservationQuery())).call("read", {"what": "history"}).text


def sent(record: CommandRecord, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert _tell_record(record, False) == 0
    return capsys.readouterr().out


def by_mcp(runs_dir: Path) -> str:
    answer: Any = RunTools(LocalControl(runs_dir)).call("get_history", {}, "client")
    return str(answer.text)
