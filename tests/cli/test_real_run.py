"""The main job, whole: a real Trainer on real text, a rate that is far too high, and the shipped rules beside it."""

from __future__ import annotations

import contextlib

import pytest

from agenttune.journal import summarize
from agenttune.proposals import State
from agenttune.reporting import html, read_journal
from agenttune.store import RunLog
from tests.cli.conftest import ROOT, Project

pytestmark = pytest.mark.trainer


def test_the_guardian_rescues_the_example(project: Project) -> None:
    args = f"[--lr, 0.3, --steps, 120, --eval-every, 60, --out, {project.folder / 'out'}]"
    project.write(ROOT / "examples" / "char_gpt.py", args)
    config = project.folder / "config.yaml"
    config.write_text(config.read_text(encoding="utf-8").replace("noop", "guardian"), encoding="utf-8")
    launched = project.start()
    result = launched.end(150.0)
    assert result.code == 0, result.err + result.out
    with contextlib.closing(RunLog.open(project.runs_dir / launched.info().run_id)) as log:
        summary = summarize(log)
        page = html(log, read_journal(log))
    cuts = [i for i in summary.interventions if i.kind == "update_optimizer" and i.state in (State.APPLIED, State.KEPT)]
    assert summary.run.status == "finished"
    assert summary.run.step == 120
    assert summary.findings
    assert cuts, "the guardian did nothing"
    assert cuts[0].author == "guardian"
    lr = next(knob for knob in summary.run.knobs if knob.name == "lr")
    assert lr.effective <= 0.1
    assert cuts[0].rationale[:40] in " ".join(result.out.split())
    assert "lr 0.3 -> " in result.out
    assert "read back at" in result.out
    assert 'figure class="loss"' in page
    assert 'figure class="goal"' in page
    assert 'figure class="lr"' in page
    assert 'class="mark applied" href="#d' in page
    assert "woken by" in page
