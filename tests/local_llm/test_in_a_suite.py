"""A real model takes part in the benchmark, and its score is computed again without it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from agenttune.bench.answers import KeptAnswers
from agenttune.bench.backends.backend import InProcess
from agenttune.bench.cell import CellResult
from agenttune.bench.play import ANSWERS
from agenttune.bench.store import read_results
from agenttune.bench.suite import load_suite
from tests.bench.test_runner import run
from tests.local_llm.conftest import started

pytestmark = pytest.mark.llm

SUITE = """\
seeds: 1
scenarios: [{{task: sim_quadratic, fault: lr_x30, recipe: {{steps: 60}}}}]
contenders: [{{type: policy, policy: llm_compact}}]
settings:
  llm: {{model: smollm2-135m, base_url: "{url}", temperature: 0.0, max_output_tokens: 300}}
  wake: {{every_steps: 30}}
"""


def result(suite: Path, out: Path) -> CellResult:
    run(load_suite(str(suite)), out, InProcess())
    [found] = read_results(out)
    assert found.outcome.failure == ""
    return found


def test_its_score_is_computed_again_without_it(tmp_path: Path) -> None:
    suite = tmp_path / "mine.yaml"
    with started(tmp_path / "server.log") as server:
        server.wait_until_ready()
        suite.write_text(SUITE.format(url=server.base_url))
        first = result(suite, tmp_path / "first")
    assert first.outcome.calls > 0
    assert first.outcome.tokens_in > 0
    assert any(KeptAnswers(tmp_path / "first" / ANSWERS).folder.iterdir())

    shutil.copytree(tmp_path / "first" / ANSWERS, tmp_path / "again" / ANSWERS)
    again = result(suite, tmp_path / "again")
    assert again.outcome.calls == first.outcome.calls
    assert again.outcome.trained is not None
    assert first.outcome.trained is not None
    assert again.outcome.trained.final == first.outcome.trained.final
    assert [i.words for i in again.outcome.interventions] == [i.words for i in first.outcome.interventions]
