"""A study as a user starts it: real processes, a language model's endpoint over HTTP, Ctrl-C and kill -9."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agenttune.control.discovery import find_server
from agenttune.launch.study.state import Study
from agenttune.launch.study.study import read_study
from agenttune.launch.study.study_log import find_study, read_entries
from agenttune.protocol.model_calls import ModelCalled
from agenttune.store.process_liveness import is_alive
from agenttune.store.run_log import list_runs
from agenttune.testing import ChatRequest, ScriptedEndpoint, Step, fails, gives, says
from tests import warm
from tests.cli.conftest import Launched, Result, agenttune, clean_up, environment, wait_for
from tests.study.conftest import LR, Lab

ONE_ROUND = LR.replace("count: 2", "count: 1")


def wise(request: ChatRequest) -> Step:
    """Plans the best rate, and learns."""
    if '"start"' not in request.text:
        return says("lower is better")
    return gives({"reasoning": "the last one was too high", "start": {"lr": 0.01}})


def model_settings(endpoint: ScriptedEndpoint) -> str:
    return f"llm: {{model: scripted, base_url: '{endpoint.base_url}', max_attempts: 1}}\n"


class Studies:
    """`agenttune run` in a folder, cleaned up afterwards."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.runs_dir = folder, folder / "runs"
        self.launched: list[Launched] = []

    def start(self, *more: str) -> Launched:
        process = warm.Popen(
            [sys.executable, "-m", "agenttune", "run", "config.yaml", *more],
            cwd=self.folder,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.launched.append(Launched(process, self.runs_dir))
        return self.launched[-1]

    def study(self) -> Study:
        return read_study(find_study(self.runs_dir))


@pytest.fixture
def studies(tmp_path: Path) -> Iterator[Studies]:
    found = Studies(tmp_path)
    yield found
    for launched in found.launched:
        clean_up(launched)


def test_a_whole_study_through_http(lab: Lab) -> None:
    with ScriptedEndpoint(wise) as endpoint:
        lab.write(ONE_ROUND + model_settings(endpoint))
        result = agenttune("run", cwd=lab.folder)
    assert result.code == 0, result.err
    assert "round 1 of 1, acting: " in result.out
    assert "eval_loss by round (less is better)" in result.out
    assert find_server(lab.folder / "runs") is None
    table = agenttune("rounds", cwd=lab.folder)
    assert table.code == 0
    assert "-50.0 %" in table.out
    assert re.search(r"learned +lower is better", table.out)
    raw = json.loads(agenttune("rounds", "--json", cwd=lab.folder).out)
    assert raw["status"] == "finished"
    assert raw["runs"][-1]["score"]["last"]["value"] == 1.0
    assert raw["calls"] >= 2
    assert raw["usd"] is None, "the price is not in the config, and nothing is guessed"
    entries = read_entries(Path(raw["path"]))
    [asked] = [e.body for e in entries if isinstance(e.body, ModelCalled) and e.body.purpose == "plan"]
    assert asked.prompts[0].name == "plan"
    assert len(asked.prompts[0].sha256) == 64


@pytest.mark.slow  # quicker: test_rounds.py, in one process
def test_a_study_survives_ctrl_c_and_kill_and_repeats_only_what_was_cut_off(lab: Lab, studies: Studies) -> None:
    with ScriptedEndpoint(wise) as endpoint:
        lab.write(ONE_ROUND + model_settings(endpoint))
        (lab.folder / "slow").touch()
        stopped = stop_with_ctrl_c(studies)
        study = studies.study()
        assert (study.status, [r.outcome for r in study.runs]) == ("interrupted", ["interrupted"])
        assert f"go on with: agenttune run config.yaml --resume {study.study}" in stopped.err
        pid = kill_launcher(studies, study.study)
        refused = agenttune("run", "--resume", study.study, cwd=lab.folder)
        assert refused.code == 2
        assert f"still trains in process {pid}" in refused.err
        os.kill(pid, signal.SIGKILL)
        wait_for("the trainer's end", lambda: not is_alive(pid, None))
        (lab.folder / "slow").unlink()
        result = agenttune("run", "--resume", study.study, cwd=lab.folder)
        assert result.code == 0, result.err
    study = studies.study()
    assert study.status == "finished"
    outcomes = [(r.round, r.outcome) for r in study.runs]
    assert outcomes == [(0, "interrupted"), (0, "lost"), (0, "finished"), (1, "finished")]


def stop_with_ctrl_c(studies: Studies) -> Result:
    launched = studies.start()
    launched.wait_for_step(3)
    launched.send(signal.SIGINT)
    result = launched.end()
    assert result.code == 130
    return result


def kill_launcher(studies: Studies, study: str) -> int:
    """Continue a study and kill it during a run; returns the trainer's process, which trains on."""
    launched = studies.start("--resume", study)
    wait_for("the second run", lambda: len(list_runs(studies.runs_dir)) == 2 and launched.info().step >= 3)
    launched.process.kill()
    launched.process.communicate()
    pid = launched.info().pid
    assert pid is not None
    return pid


def test_an_endpoint_that_fails_ends_the_study_with_a_word_and_an_exit_code(lab: Lab, studies: Studies) -> None:
    with ScriptedEndpoint(lambda request: fails(500)) as endpoint:
        lab.write(ONE_ROUND + model_settings(endpoint))
        result = agenttune("run", cwd=lab.folder)
    assert result.code == 1
    assert "the study is not complete: no plan for round 1" in result.err
    assert "--resume" in result.err
    assert [r.round for r in studies.study().runs] == [0]


def test_resume_without_rounds_says_what_is_wrong(lab: Lab) -> None:
    lab.write("")
    result = agenttune("run", "config.yaml", "--resume", "x", cwd=lab.folder)
    assert result.code == 2
    assert "rounds.count is 0" in result.err
