"""What a page reads of one run: curves over any axis, one decision, limits, the agent, what was said to models."""

from __future__ import annotations

import csv
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from agenttune.control import LocalControl
from agenttune.control.discovery import ServerAddress
from agenttune.errors import UserError
from agenttune.protocol.commands import ModelLayerParameterUpdate, SetKnob, UpdateOptimizer, UpdateSchedule
from agenttune.protocol.decision import CommandDecision
from agenttune.protocol.dry_run import DryRun
from agenttune.protocol.events import (
    BranchStarted,
    Decided,
    FindingJudged,
    Found,
    KnobsRead,
    ModelRead,
    PolicyAttached,
    PolicyDetached,
    PolicyRequested,
)
from agenttune.protocol.findings import Finding
from agenttune.protocol.lr_course import LrCourse, Track
from agenttune.protocol.metrics import Point
from agenttune.protocol.model_calls import ChatMessage, ModelCalled
from agenttune.protocol.proposals import Ack, Author, Change, Proposal, Verdict
from agenttune.protocol.reads import (
    AgentQuery,
    CurveQuery,
    CurvesQuery,
    DecisionQuery,
    FindingsQuery,
    GuardrailsQuery,
    SeriesQuery,
    TranscriptQuery,
)
from agenttune.protocol.run_info import KnobState, ModuleInfo, ParameterInfo
from agenttune.store.run_log import RunLog
from tests.server.conftest import make_run

AGENT = Author(principal="agent", name="guardian")
OPERATOR = Author(principal="operator", name="ada")


PARAMETERS = [
    ParameterInfo(name="p", value=0.1, type="float", minimum=0, maximum=1),
    ParameterInfo(name="eps", value=1e-5, type="float", above=0),
    ParameterInfo(name="inplace", value=False, type="bool"),
]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunLog]:
    rules = {
        "gate": {
            "window": {"steps": 50, "max_commands": 3, "max_change_factor": 8},
            "cooldown_steps": 30,
            "approval": [{"approvers": ["human"], "risks": ["danger"]}, {"approvers": ["auto"]}],
        }
    }
    log = make_run(tmp_path, "one", steps=0, rules=rules)
    log.append_points([_point(i, 4 * math.exp(-i / 400) + 0.01 * (i % 3)) for i in range(1, 101)])
    yield log
    log.close()


def _point(step: int, loss: float, branch: str = "main") -> Point:
    values = {"step_loss": loss, "lr": 1e-3, "tokens_per_s": 100.0, "step_time_s": 2.0}
    return Point(step=step, at_s=1000.0 + 2 * step, values=values, branch=branch)


def _cut(log: RunLog) -> str:
    """A cut of the rate at step 100 after which the loss falls twice as fast."""
    finding = Finding(
        kind="plateau", severity="warning", metric="step_loss", step=98, summary="flat", evidence={"a": 1}
    )
    log.append(Found(finding=finding), step=98)
    proposal = Proposal(command=UpdateOptimizer(lr=5e-4), author=AGENT, rationale="it is flat", based_on_step=99)
    log.submit(proposal, Verdict(decision="approved", decided_by="auto"))
    name = proposal.command_id
    log.append(
        Decided(policy="guardian", woken_by="finding plateau", command_ids=[name], reason="flat", based_on_step=99),
        step=99,
    )
    change = Change(name="lr", previous=1e-3, requested=5e-4, effective=5e-4, previous_base=1e-3, base=5e-4)
    log.acknowledge(name, Ack(outcome="applied", step=100, changes=[change]))
    log.append_points([_point(i, 3.1 * math.exp(-(i - 100) / 60) + 0.01 * (i % 3)) for i in range(101, 181)])
    return name


def test_one_read_tells_why_something_was_changed_and_whether_it_helped(run: RunLog, tmp_path: Path) -> None:
    name = _cut(run)
    told: CommandDecision = LocalControl(tmp_path).read("one", DecisionQuery(command_id=name))
    assert (told.seen.policy, told.seen.woken_by, told.seen.step) == ("guardian", "finding plateau", 99)
    assert [finding.finding.kind for finding in told.seen.findings] == ["plateau"]
    assert told.effect.startswith("better: step_loss")
    assert [event.body.kind for event in told.events] == ["proposed", "judged", "acked"]
    (around,) = told.curves
    assert around.before[-1].step == 100
    assert around.after[0].step == around.expected[0].step == 101
    assert len(around.expected) == len(around.after)
    last = around.expected[-1]
    assert last.low <= last.likely <= last.high
    assert around.after[-1].value < last.low  # the picture says what the words say


def test_a_finding_is_read_with_what_a_person_said_of_it(run: RunLog, tmp_path: Path) -> None:
    _cut(run)
    control = LocalControl(tmp_path)
    (finding,) = control.read("one", FindingsQuery()).findings
    assert finding.judged is None
    for right in (True, False):
        control.record("one", FindingJudged(finding_seq=finding.seq, right=right, author="ada"))
    judged = control.read("one", FindingsQuery()).findings[0].judged
    assert judged is not None
    assert not judged.right


def test_several_curves_come_at_once_and_a_branch_grows_from_its_parent(run: RunLog, tmp_path: Path) -> None:
    run.append(BranchStarted(name="retry", parent="main", from_step=60), step=60)
    run.append_points([_point(i, math.nan if i == 70 else 1.0, "retry") for i in range(61, 91)])
    control = LocalControl(tmp_path)
    names = ["step_loss", "lr", "nothing"]
    told = control.read("one", CurvesQuery(name=names, branch=["main", "retry"], axis="time"))
    assert [(curve.name, curve.branch) for curve in told.curves] == [
        ("step_loss", "main"),
        ("lr", "main"),
        ("step_loss", "retry"),
        ("lr", "retry"),
    ]
    assert told.missing == ["nothing"]
    main, retry = told.curves[0], told.curves[2]
    assert main.x[:2] == [1002.0, 1004.0]
    assert (retry.parent, retry.root) == ("main", (60, 1120.0, main.mean[59]))
    assert retry.nonfinite[9] == 1
    assert math.isnan(retry.mean[9])
    tokens = control.read("one", CurvesQuery(name=["lr"], branch=["retry"], axis="tokens")).curves[0]
    assert tokens.x[0] == pytest.approx(61 * 200)  # the parent's steps count
    assert control.read("one", CurvesQuery(name=["lr"])).curves[0].branch == "retry"  # the one that is trained


def test_curves_read_together_are_those_read_alone(run: RunLog, tmp_path: Path) -> None:
    run.append_points([_point(i, i % 7) for i in range(101, 3001)])
    run.append_points([Point(step=i, at_s=0, values={"loss": 1 / i}, source="log") for i in range(10, 3001, 10)])
    control = LocalControl(tmp_path)
    for first, last, most in ((0, None, 50), (0, None, 1000), (500, 1500, 100), (2990, None, 100)):
        ends = {"first_step": first, "last_step": last, "max_points": most}
        told = control.read("one", CurvesQuery(name=["step_loss", "loss"], axis="step", **ends))
        for curve in told.curves:
            alone = control.read("one", CurveQuery(name=curve.name, **ends))
            assert (curve.steps, curve.mean, curve.low) == (alone.steps, alone.mean, alone.low)
            assert len(curve.steps) <= most
    assert max(told.curves[0].high) == 6


def test_a_long_run_whose_curves_are_not_ready_is_drawn_at_once_by_single_rows(run: RunLog, tmp_path: Path) -> None:
    run.append_points([_point(i, 1.0) for i in range(101, 30_001)])
    told = LocalControl(tmp_path).read("one", CurvesQuery(name=["step_loss"], max_points=100))
    assert told.is_sample
    assert told.curves[0].steps[0] == 1
    assert told.curves[0].steps[-1] == 30_000
    series = LocalControl(tmp_path).read("one", SeriesQuery())
    assert series.is_sample
    assert ("step_loss", 1, 30_000) in {(one.name, one.first_step, one.last_step) for one in series.series}
    control = LocalControl(tmp_path)
    control.read("one", SeriesQuery())
    control.index_runs(most_s=0.0)  # what somebody looks at is prepared, however much else there is
    assert not control.read("one", SeriesQuery()).is_sample
    assert not LocalControl(tmp_path).read("one", CurvesQuery(name=["step_loss"])).is_sample


def test_a_dry_run_draws_the_course_that_a_plan_would_bring(run: RunLog, tmp_path: Path) -> None:
    course = LrCourse(
        kind="linear",
        steps=[100, 1000],
        tracks=[Track(groups=[0, 1], shares=[1.0, 10.0], rates=[1e-3, 0.0], lowest=[1e-3, 0], highest=[1e-3, 1e-3])],
        can_be_planned=True,
    )
    knob = KnobState(
        name="lr", effective=1e-3, base=1e-3, groups=[1e-3, 1e-2], base_groups=[1e-3, 1e-2], command="update_optimizer"
    )
    run.append(KnobsRead(knobs=[knob], schedule=course), step=100)
    control = LocalControl(tmp_path)
    plan = Proposal(command=UpdateSchedule(shape="cosine", warmup_steps=50, peak_lr=2e-3), author=OPERATOR)
    told = control.dry_run("one", plan)
    assert told.decision == "approved"
    assert [(rates.group, len(rates.steps) <= 200) for rates in told.rates] == [(0, True), (1, True)]
    first, second = told.rates
    assert (first.steps[0], first.steps[-1]) == (100, 1000)
    assert first.before[0] == pytest.approx(1e-3)
    assert first.before[-1] == 0
    assert max(first.after) == pytest.approx(2e-3)
    assert max(second.after) == pytest.approx(2e-2)
    halved = control.dry_run("one", Proposal(command=UpdateOptimizer(lr=5e-4), author=OPERATOR))
    assert halved.rates[0].after[0] == pytest.approx(5e-4)
    assert halved.differences[0].before == 1e-3
    other = control.dry_run("one", Proposal(command=SetKnob(name="alpha", value=1), author=OPERATOR))
    assert other.rates == []


def test_what_is_left_of_each_limit_is_told_in_words(run: RunLog, tmp_path: Path) -> None:
    _cut(run)
    told = LocalControl(tmp_path).read("one", GuardrailsQuery())
    by_name = {one.name: one for one in told.allowances}
    run_budget = by_name["budgets.max_commands"]
    assert (run_budget.used, run_budget.left) == (1, 99)
    assert "gate.window.max_commands" not in by_name or by_name["gate.window.max_commands"].used == 0
    assert told.approval[0].startswith("rule 1: risks danger: human, 900 s, then reject")


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("p", 1.5, "p is between 0 and 1, not 1.5"),
        ("p", -0.1, "p is between 0 and 1, not -0.1"),
        ("p", True, "p is a number (now 0.1), not True"),
        ("eps", 0, "eps is above 0, not 0"),
        ("inplace", "yes", "inplace is a bool (now False), not 'yes'"),
    ],
)
def test_a_layers_value_that_the_trainer_would_refuse_is_refused_before(
    run: RunLog, tmp_path: Path, name: str, value: Any, reason: str
) -> None:
    drop = ModuleInfo(name="drop", type="Dropout", parameters=0, trainable=0, hyperparameters=PARAMETERS)
    run.append(ModelRead(model=ModuleInfo(name="", type="Net", parameters=1, trainable=1, children=[drop])))
    control = LocalControl(tmp_path)

    def ask(value: Any, layer: str = "drop") -> DryRun:
        command = ModelLayerParameterUpdate(layer_name=layer, param_name=name, value=value)
        return control.dry_run("one", Proposal(command=command, author=OPERATOR))

    told = ask(value)
    assert (told.decision, told.decided_by, told.reason) == ("rejected", "guardrail:feasible", reason)
    assert ask(value, "other").decision == "approved", "of what was not told the trainer judges"
    assert ask({"p": 0, "eps": 1e-8, "inplace": True}[name]).decision == "approved"


def test_a_window_says_when_it_is_free_again(run: RunLog, tmp_path: Path) -> None:
    change = Change(name="lr", previous=1e-3, requested=5e-4, effective=5e-4, previous_base=1e-3, base=5e-4)
    proposal = Proposal(command=UpdateOptimizer(lr=5e-4), author=AGENT)
    run.submit(proposal, Verdict(decision="approved", decided_by="auto"))
    run.acknowledge(proposal.command_id, Ack(outcome="applied", step=90, changes=[change]))
    told = {one.name: one for one in LocalControl(tmp_path).read("one", GuardrailsQuery()).allowances}
    assert told["gate.window.max_commands"].left == 2
    assert told["gate.window.max_commands"].free_at_step == 140
    assert told["gate.window.max_change_factor"].left == 4
    assert told["gate.cooldown_steps"].words == "lr rests for 20 more steps, until step 120 (gate.cooldown_steps)."


def test_the_agent_says_what_it_is_doing(run: RunLog, tmp_path: Path) -> None:
    control = LocalControl(tmp_path)
    assert control.read("one", AgentQuery()).doing == "none"
    run.append(PolicyAttached(policy="guardian"), step=1)
    _cut(run)
    told = control.read("one", AgentQuery())
    assert (told.doing, told.policy, told.last_look_step, told.proposals) == ("watching", "guardian", 99, 1)
    assert told.words == "guardian watches; its last recorded look was at step 99."
    run.append(PolicyAttached(policy="guardian", pid=2**22 + 1, pid_started_s=time.time()), step=1)
    assert control.read("one", AgentQuery()).doing == "lost"


def test_a_policy_that_was_refused_is_no_longer_awaited(run: RunLog, tmp_path: Path) -> None:
    control, request = LocalControl(tmp_path), PolicyRequested(policy="nosuch", author="anna")
    run.append(PolicyAttached(policy="guardian"))
    run.append(request)
    told = control.read("one", AgentQuery())
    assert (told.doing, told.requested) == ("asked", "nosuch")
    run.append(Decided(policy="guardian", woken_by=request.words, reason="guardian stays: no policy 'nosuch'"))
    told = control.read("one", AgentQuery())
    assert (told.doing, told.requested, told.refused) == ("watching", None, "guardian stays: no policy 'nosuch'")
    assert told.words == "guardian watches; it has not looked yet.", "an answer is no look"
    run.append(request)
    told = control.read("one", AgentQuery())
    assert (told.requested, told.refused) == ("nosuch", "")


def test_what_a_policy_said_that_is_gone_is_not_told_as_the_last_look(run: RunLog, tmp_path: Path) -> None:
    control = LocalControl(tmp_path)
    run.append(
        PolicyAttached(policy="guardian"),
        Decided(policy="guardian", woken_by="evaluated", reason="no rule applies"),
        step=7,
    )
    told = control.read("one", AgentQuery())
    assert (told.last_reason, told.last_look_step, told.previous) == ("no rule applies", 7, None)
    run.append(PolicyDetached(policy="guardian", successor="noop"), PolicyAttached(policy="noop"), step=9)
    told = control.read("one", AgentQuery())
    assert (told.last_reason, told.last_look_step, told.previous) == ("", None, "guardian")
    assert told.words == "noop watches; it has not looked yet."


def test_where_the_policy_has_left_no_other_is_awaited(run: RunLog, tmp_path: Path) -> None:
    """Its process has ended with it: seen before, the page said for ever that the agent obeys at its next look."""
    run.append(PolicyAttached(policy="guardian"), PolicyDetached(policy="guardian"), step=7)
    run.append(PolicyRequested(policy="noop", author="anna"), step=8)
    told = LocalControl(tmp_path).read("one", AgentQuery())
    assert (told.doing, told.requested, told.last_reason, told.previous) == ("none", None, "", "guardian")
    assert "agenttune attach" in told.words


def test_a_transcript_is_whole_though_texts_are_recorded_once(run: RunLog, tmp_path: Path) -> None:
    def call(*messages: ChatMessage) -> ModelCalled:
        given = {"policy": "llm", "purpose": "decide", "model": "m", "endpoint": "http://h", "protocol": "tools"}
        return ModelCalled.model_validate({**given, "messages": list(messages)})

    run.append(call(ChatMessage(role="system", content="be brief", sha256="a" * 64)), step=1)
    (seq,) = run.append(call(ChatMessage(role="system", sha256="a" * 64), ChatMessage(role="user", content="hi")))
    control = LocalControl(tmp_path)
    told = control.read("one", TranscriptQuery(seq=seq)).call
    assert [message.content for message in told.messages] == ["be brief", "hi"]
    with pytest.raises(UserError, match=f"no call of a model; the newest are: {seq - 1}, {seq}"):
        control.read("one", TranscriptQuery(seq=1))


def test_a_log_is_saved_as_lines_and_its_metrics_as_a_table(
    shared_server: ServerAddress, shared_runs: Path, tmp_path: Path
) -> None:
    log = make_run(shared_runs, "saved", steps=3)
    log.append_points([Point(step=4, at_s=9.5, values={"=cmd()": 1.0, "loss": math.nan}, branch="retry")])
    log.close()
    get = f"{shared_server.url}/api/v1/runs/saved/export"
    with httpx.Client(trust_env=False) as client:
        table = list(csv.DictReader(client.get(f"{get}/metrics.csv").text.splitlines()))
        assert [row["step"] for row in table] == ["1", "2", "3", "4"]
        assert (table[3]["loss"], table[3]["'=cmd()"], table[3]["branch"]) == ("nan", "1.0", "retry")
        some = client.get(f"{get}/metrics.csv", params={"name": "loss", "branch": "retry"})
        assert some.text.splitlines()[0] == "step,at_s,branch,source,loss"
        assert len(some.text.splitlines()) == 2
        assert some.headers["content-disposition"] == 'attachment; filename="saved-metrics.csv"'
        lines = client.get(f"{get}/events.jsonl", params={"kinds": "knobs_read"}).text.splitlines()
        assert [json.loads(line)["body"]["kind"] for line in lines] == ["knobs_read"]
        assert client.get(f"{shared_server.url}/api/v1/runs/none/export/metrics.csv").status_code == 404
