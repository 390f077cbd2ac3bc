"""Whoever opens the report in the morning finds every decision with its reasons, and nothing else on the page."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from agenttune.protocol.events import (
    POLICY_FAILED,
    BranchStarted,
    CheckpointSaved,
    Decided,
    FindingJudged,
    Found,
    StatusChanged,
)
from agenttune.protocol.findings import Finding
from agenttune.protocol.metrics import Curve, Point
from agenttune.protocol.proposals import Ack, Author, Proposal
from agenttune.protocol.reads import CheckpointsQuery, DecisionQuery, HistoryQuery
from agenttune.store.run_log import RunLog
from agenttune.views.report import html, markdown, print_report, read_journal
from agenttune.views.report.curves import CurveLine, Panel
from agenttune.views.report.svg import draw
from agenttune.views.terminal.chart import value_range
from tests.report.conftest import ANNA, EVIL, Night, eventful
from tests.report.pages import ALLOWED, MARKDOWN, Page, rendered

Render = Callable[[RunLog], Page]


def as_html(log: RunLog) -> Page:
    return Page(html(log, read_journal(log)))


def as_markdown(log: RunLog) -> Page:
    return rendered(markdown(read_journal(log)))


BOTH = pytest.mark.parametrize("render", [as_html, as_markdown])


@BOTH
def test_a_decision_is_told_from_its_evidence_to_its_consequence(render: Render, night: Night) -> None:
    said = render(night.log).said
    for words in (
        "update_optimizer lr 0.015, by model (agent) at step 50",
        "step 90, spike (critical): the loss jumped",
        "decide by a-model (tools), 1.23k tokens, $0.002, 1.5 s, prompt decide.md sha256 abababababababab",
        "approved by rule:small",
        "at step 101 on branch main",
        "read back at step 102",
        "lr: 0.01 -> requested 0.015 -> effective 0.015 (base 0.01 -> 0.015)",
        "at step 106: still in force",
        "better: step_loss 1.907, 2.014 expected without it (1.994 to 2.02), up to step 165",
        "step_loss 2 without the change, seen 1.9, standard error 0.05",
    ):
        assert words in said
    assert "a secret of the transcript" not in said


@BOTH
def test_a_policy_that_fails_does_not_look_like_one_that_is_content(render: Render, night: Night) -> None:
    for step in (130, 140):
        night.log.append(
            Decided(policy="mine", woken_by="step", command_ids=[], reason=f"Mine: {POLICY_FAILED}: boom"), step=step
        )
    said = " ".join(render(night.log).words)
    assert "in 2 a policy failed" in said
    assert (
        "The policy mine failed at 2 of 2 looks; the newest error, at step 140: Mine: the policy failed: boom" in said
    )


@pytest.mark.parametrize("render", [as_html, as_markdown])
def test_the_newest_error_of_each_policy_is_told_in_one_clean_line(render: Render, night: Night) -> None:
    for step, policy, reason in (
        (130, "mine", f"{POLICY_FAILED}: ValueError: first"),
        (131, "mine", "nothing to do"),
        (140, "mine", f"{POLICY_FAILED}: KeyError: second\n\x1b[31mline"),
        (141, "yours", f"{POLICY_FAILED}: ZeroDivisionError: division by zero"),
    ):
        night.log.append(Decided(policy=policy, woken_by="step", command_ids=[], reason=reason), step=step)
    said = " ".join(render(night.log).words)
    assert "The policy mine failed at 2 of 3 looks; the newest error, at step 140: KeyError: second [31mline" in said
    assert "The policy yours failed at 1 of 1 look; the newest error, at step 141: ZeroDivisionError: division" in said
    assert "ValueError: first" not in said.partition("looks")[0]


@BOTH
def test_people_clocks_and_returns_are_told_apart(render: Render, night: Night) -> None:
    said = render(night.log).said
    for words in (
        "update_optimizer lr 0.4 -> update_optimizer lr 0.1",
        "edited by operator:anna after",
        "rejected by operator:anna after",
        "not while I sleep",
        "expired by timeout after",
        "nobody decided within 60 s",
        "superseded by restore",
        "the run went back to a checkpoint from before this",
        "taken back by command back",
        "seen inf",
        "the run stands on it to step 200, the rest was left behind",
        "retry from main at step 200 (checkpoint checkpoint-200)",
        "7 rows were lost: the disk was full",
        "none of the trainer is recorded",
    ):
        assert words in said


@BOTH
def test_what_was_refused_many_times_is_counted_and_folded(render: Render, night: Night) -> None:
    said = render(night.log).said
    assert "15 (1 kept, 1 reverted, 2 expired, 9 refused, 1 failed, 1 waiting)" in said
    assert "8 times" in said
    assert "decided by guardrail:" in said


@BOTH
def test_text_from_a_run_is_only_text(render: Render, tmp_path: Path) -> None:
    page = render(eventful(tmp_path / "runs", words=EVIL).log)
    assert page.unclosed == []
    assert page.tags <= ALLOWED | MARKDOWN
    assert not {name for name in page.attributes if name.startswith("on")}
    assert all(link.startswith("#") for link in page.links)
    assert not set(page.said) & set("\x1b\u202e\x00")
    assert "<script>alert(1)</script>" in page.said, "it is shown as it was written"
    assert "**bold** | cell | https://evil.example www.evil.example" in page.said


def test_how_to_go_on_stays_within_its_line_of_code(tmp_path: Path) -> None:
    """It is copied into a terminal, and is escaped by nothing but that it is code."""
    night = Night(tmp_path / "runs")
    proposal = Proposal.model_validate({"command": {"kind": "stop_training"}, "author": ANNA})
    stop = night.control.submit("night", proposal)
    words = "resume('/runs/a\x1b[2J')\n\n# SYSTEM <script>alert(1)</script>"
    night.log.acknowledge(stop.command_id, Ack(outcome="applied", step=10, result={"to_go_on": words}))
    night.log.append(StatusChanged(status="stopped"), step=10)
    text = markdown(read_journal(night.log))
    assert "\x1b" not in text
    assert [line for line in text.splitlines() if "# SYSTEM <script>" in line] == [
        "    resume('/runs/a[2J') # SYSTEM <script>alert(1)</script>"
    ]
    assert "script" not in as_html(night.log).tags


def test_markdown_tables_keep_their_shape_whatever_stands_in_them(tmp_path: Path) -> None:
    text = markdown(read_journal(eventful(tmp_path / "runs", words=EVIL).log))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    unescaped = [line.replace("\\\\", "").replace("\\|", "").count("|") for line in rows]
    assert set(unescaped) == {3}
    assert "https://" not in text, "a viewer would make a link of it"


def test_the_page_needs_nothing_but_itself(night: Night) -> None:
    text = html(night.log, read_journal(night.log))
    assert "default-src 'none'" in text
    for word in ("http://", "https://", "url(", "@import", "<script", "<link", "<img"):
        assert word not in text
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text


def test_every_mark_leads_to_its_decision(night: Night) -> None:
    page = as_html(night.log)
    marks = [link for link in page.links if link.startswith("#")]
    assert len(set(marks)) >= 6
    assert {link[1:] for link in marks} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    shown = " ".join(page.classes)
    for outcome in ("kept", "reverted", "refused", "expired", "failed", "waiting"):
        assert f"mark {outcome}" in shown
    assert "step 201, reverted: lr 0.015 -> 0.1" in page.said, "the mark's title"


def test_what_was_left_behind_is_drawn_but_faint(night: Night) -> None:
    page = as_html(night.log)
    assert "line off" in page.classes
    assert "mark reverted off" in page.classes
    assert "mark kept off" not in page.classes


def test_every_view_of_a_command_says_the_same_of_what_was_left_behind(night: Night) -> None:
    entries = read_journal(night.log).entries
    gone = {entry.record.command_id for entry in entries if entry.is_abandoned}
    history = night.control.read("night", HistoryQuery()).history
    assert gone
    assert {told.command_id for told in history if told.is_abandoned} == gone
    for entry in entries:
        told = night.control.read("night", DecisionQuery(command_id=entry.record.command_id)).intervention
        assert told.is_abandoned is (told.command_id in gone)


def test_no_number_of_a_drawing_is_not_a_number(night: Night) -> None:
    page = as_html(night.log)
    assert "19 values NaN or infinite" in page.said
    assert "nan" in page.classes
    assert page.paths
    assert not [d for d in page.paths if "nan" in d.lower() or "inf" in d.lower()]


@pytest.mark.parametrize(
    "values",
    [[], [2.0], [math.nan], [0.0, 0.0], [-1e308, 1e308], [1e-300, 1e300], [math.inf, -math.inf, 1.0], [5e-324, 1.0]],
)
def test_any_values_can_be_drawn(tmp_path: Path, values: list[float]) -> None:
    night = Night(tmp_path / "runs")
    night.log.append_points([Point(step=i, at_s=0.0, values={"step_loss": v, "lr": v}) for i, v in enumerate(values)])
    page = as_html(night.log)
    assert page.unclosed == []
    assert not [d for d in page.paths if "nan" in d.lower() or "inf" in d.lower()]
    assert ("No metric was logged." in page.said) == (not values)


def test_two_decades_get_a_logarithmic_scale(tmp_path: Path) -> None:
    night = Night(tmp_path / "runs")
    night.steps(1, 50, 2.0)
    assert "logarithmic" not in as_html(night.log).said
    night.steps(51, 60, 5000.0)
    assert "logarithmic scale" in as_html(night.log).said


@BOTH
def test_a_run_in_which_nothing_happened(render: Render, tmp_path: Path) -> None:
    night = Night(tmp_path / "runs")
    night.log.append(StatusChanged(status="finished"), step=0)
    said = render(night.log).said
    assert "nothing was asked for and nothing was changed" in said
    assert "no loss was logged" in said
    assert "no language model was called" in said
    assert "finished" in said


@BOTH
def test_a_run_without_an_end_says_so(render: Render, night: Night) -> None:
    assert "This run has not ended: it is running." in render(night.log).said
    night.log.update_info(pid=2**22 + 1)
    said = render(night.log).said
    assert f"This run was never closed: its process {2**22 + 1} is gone." in said
    assert "1 command was never decided or never answered" in said
    night.log.append(StatusChanged(status="failed", reason="out of memory"), step=300, branch="retry")
    said = render(night.log).said
    assert "it is failed. out of memory" in said
    assert "expired at step 300 on branch retry" in said
    assert "the run is failed" in said
    assert "never decided or never answered" not in said


@BOTH
def test_a_run_that_died_in_a_return_says_where_it_stood_and_what_can_be_loaded(render: Render, tmp_path: Path) -> None:
    night = Night(tmp_path / "runs")
    night.steps(1, 60)
    night.log.append(
        CheckpointSaved(checkpoint_id="main-50-a", path="/runs/night/main-50-a"),
        CheckpointSaved(checkpoint_id="main-0-b", path="", keep_in="memory"),
        step=50,
    )
    night.log.append(BranchStarted(name="branch-1", parent="main", from_step=0, checkpoint_id="main-0-b"), step=0)
    night.log.update_info(branch="branch-1")
    assert [c.checkpoint_id for c in night.control.read("night", CheckpointsQuery()).checkpoints] == [
        "main-50-a",
        "main-0-b",
    ]
    night.log.append(StatusChanged(status="lost", reason="its process is gone"))
    text = render(night.log).said
    assert "no loss was logged since the run went back to step 0 of main" in text
    assert "of step 50, lies in /runs/night/main-50-a" in text
    assert [c.checkpoint_id for c in night.control.read("night", CheckpointsQuery()).checkpoints] == ["main-50-a"]


def test_a_page_of_two_thousand_decisions_is_bounded_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    night = Night(tmp_path / "runs")
    night.steps(1, 2000)
    anna = Author(principal="operator", name="anna")
    lr = 0.01
    for i in range(500):
        night.apply(night.ask(anna, "x" * 300, lr=lr * 1.01), 4 * i + 1, lr, lr * 1.01)
        night.ask(anna, lr=0.9 + i / 10)
    text = html(night.log, read_journal(night.log))
    page = Page(text)
    assert "1000 (500 applied, 500 refused)" in page.said
    assert "200 decisions from the middle of the run are left out here" in page.said
    assert "500 times" in page.said
    assert page.text.count("<article") == 300
    assert page.text.count('class="mark applied') <= 3 * 300
    assert len(text) < 1_500_000
    assert {link[1:] for link in page.links} <= set(page.ids), "a mark of what is left out leads nowhere"
    assert len(markdown(read_journal(night.log))) < 1_000_000


def test_the_terminal_report_tells_edits_branches_and_folds_refusals(night: Night) -> None:
    late = night.ask(Author(principal="operator", name="anna"), lr=0.05, until=301)
    ack = Ack(outcome="expired", step=302, branch="retry", message="it was valid until step 301")
    night.log.acknowledge(late.command_id, ack)
    out = io.StringIO()
    print_report(Console(file=out, width=400), read_journal(night.log))
    said = " ".join(out.getvalue().split())
    assert "lr 0.015 -> 0.1, by model (agent)" in said
    assert "decided edited by operator:anna after" in said
    assert "edited update_optimizer lr 0.4 -> update_optimizer lr 0.1" in said
    assert "retry from main at step 200 (checkpoint checkpoint-200): to step 300, the run is here" in said
    assert "refused, 8 times: update_optimizer asked by model" in said
    assert "7 more like this are in the log" in said
    assert "expired by timeout after" in said
    assert "nobody decided within 60 s" in said
    assert "superseded by restore" in said
    assert "approved by auto expired at step 302" in said
    assert "it was valid until step 301" in said


@pytest.mark.parametrize("values", [[0.0, 0.4, 0.001, 1.2], [0.02, 0.021, 0.02], [0.0, 0.0]])
def test_what_is_never_below_zero_has_no_axis_there(values: list[float]) -> None:
    low, high = value_range(values, values[-1])
    assert 0 <= low < high
    count = len(values)
    curve = Curve(
        name="loss",
        branch="main",
        bucket_points=1,
        steps=list(range(1, count + 1)),
        mean=values,
        low=values,
        high=values,
        nonfinite=[0] * count,
    )
    drawn = str(draw(Panel("loss", "loss", [CurveLine("loss", curve, False)], []), [], count))
    assert not re.search(r'class="yt">-', drawn)
    assert value_range([-1.0, 1.0], 0.0)[0] < -1


@BOTH
def test_the_report_counts_what_people_said_of_findings(render: Render, tmp_path: Path) -> None:
    log = Night(tmp_path).log
    seqs = []
    for step in (10, 20, 30):
        finding = Finding(kind="spike", severity="warning", metric="loss", step=step, summary=f"rose at {step}")
        seqs += log.append(Found(finding=finding), step=step)
    assert "People judged" not in render(log).said
    for seq, right in ((seqs[0], False), (seqs[0], True), (seqs[1], False)):
        log.append(FindingJudged(finding_seq=seq, right=right, author="ada"))
    said = render(log).said
    assert "People judged 2 of 3: 1 right, 1 wrong." in said
    assert "rose at 10. A person said that it was right" in said
