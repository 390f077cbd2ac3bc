"""The main job, whole: a real Trainer on real text, a rate that is far too high, and the shipped rules beside it."""

from __future__ import annotations

import contextlib

import pytest

from agenttune.protocol.proposals import State
from agenttune.protocol.summary import RunSummary
from agenttune.store.run_log import RunLog
from agenttune.views.report import html, read_journal
from tests.cli.conftest import ROOT, Project, wait_for

# Quicker: test_walkthrough.py in tests/docs runs a Trainer with an agent, test_rescue.py in tests/trainer goes back.
pytestmark = [pytest.mark.trainer, pytest.mark.slow]


def is_scored(summary: RunSummary) -> bool:
    score = summary.score
    return score is not None and score.metric == "eval_loss" and score.last.step > score.first.step


def is_rescued(summary: RunSummary) -> bool:
    """Untouched, its evaluations stay above 3.1."""
    return is_scored(summary) and summary.score is not None and summary.score.last.value < 3.0


def test_the_guardian_rescues_the_example(project: Project) -> None:
    # Endless: how far it gets before the guardian is awake depends on the machine.
    args = f"[--lr, 0.3, --steps, 20000, --eval-every, 60, --out, {project.folder / 'out'}]"
    project.write(ROOT / "examples" / "char_gpt.py", args)
    config = project.folder / "config.yaml"
    config.write_text(config.read_text(encoding="utf-8").replace("noop", "guardian"), encoding="utf-8")
    launched = project.start()
    wait_for("a rate that was read back", lambda: launched.events("read_back"), 150.0)
    wait_for("two evaluations, the newest good", lambda: is_rescued(launched.summary()), 150.0)
    launched.stop_training()
    result = launched.end()
    assert result.code == 0, result.err + result.out
    summary = launched.summary()
    with contextlib.closing(RunLog.open(project.runs_dir / launched.info().run_id)) as log:
        page = html(log, read_journal(log))
    done = [i for i in summary.interventions if i.author == "guardian" and i.state in (State.APPLIED, State.KEPT)]
    assert summary.run.status == "stopped"
    assert summary.findings
    assert done, "the guardian did nothing"
    assert done[0].kind == "load_checkpoint", "a lower rate alone would keep the wreck"
    assert is_rescued(summary)
    lr = next(knob for knob in summary.run.knobs if knob.name == "lr")
    assert lr.effective <= 0.1
    assert done[0].rationale[:40] in " ".join(result.out.split())
    assert "lr 0.3 -> " in result.out
    assert "read back at" in result.out
    assert 'figure class="loss"' in page
    assert 'figure class="goal"' in page
    assert 'figure class="lr"' in page
    assert 'class="mark applied" href="#d' in page
    assert "woken by" in page
