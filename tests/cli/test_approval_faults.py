"""Processes that die between approval and applying, and an agent gone mad: nothing runs twice, nothing is lost."""

from __future__ import annotations

import os
import signal
import textwrap
import time
from pathlib import Path

import httpx
import pytest

from agenttune.control import ApprovalDecision, LocalControl
from agenttune.control.discovery import find_server
from agenttune.control.http import HttpControl
from agenttune.control.owner_token import OwnerToken
from agenttune.errors import TooManyProposals
from agenttune.protocol.events import Acked
from agenttune.protocol.proposals import Author, CommandRecord, Proposal, State
from tests.cli.conftest import Launched, Project, wait_for
from tests.core.test_approval import AGENT

ANNA = Author(principal="operator", name="anna")
ASK = "gate: {approval: [{name: ask, approvers: [human], timeout_s: 600}]}\n"
MANY, OVER_HTTP = 2_000, 200


TRAIN = """
    import time
    import torch
    import agenttune

    torch.set_num_threads(1)
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    with agenttune.session(model=model, optimizer=optimizer, max_steps=200_000) as s:
        while True:
            optimizer.zero_grad()
            loss = model(torch.ones(2, 4)).pow(2).mean()
            loss.backward()
            optimizer.step()
            time.sleep(0.005)
            if s.step({"loss": loss.detach()}):
                break
"""


def start(project: Project) -> Launched:
    script = project.folder / "train.py"
    script.write_text(textwrap.dedent(TRAIN), encoding="utf-8")
    project.write(script, "[]", ASK)
    launched = project.start()
    launched.wait_for_step(1)
    return launched


def ask(project: Project, run_id: str) -> CommandRecord:
    raw = {"command": {"kind": "update_optimizer", "lr": 0.002}, "author": AGENT, "rationale": "it is flat"}
    return LocalControl(project.runs_dir).submit(run_id, Proposal.model_validate(raw))


def approve(control: LocalControl | HttpControl, run_id: str, record: CommandRecord) -> None:
    assert record.request is not None
    body = {"verdict": "approve", "digest": record.request.digest, "author": ANNA}
    assert control.decide(run_id, record.command_id, ApprovalDecision.model_validate(body)).state is State.QUEUED


def stop(project: Project, run_id: str) -> None:
    LocalControl(project.runs_dir).submit(
        run_id, Proposal.model_validate({"command": {"kind": "stop_training"}, "author": ANNA})
    )


@pytest.mark.slow  # quicker: a kill between change and ack in tests/trainer/test_faults.py
@pytest.mark.trainer
def test_who_dies_between_approval_and_applying_makes_nothing_run_twice_and_loses_nothing(project: Project) -> None:
    launched = start(project)
    info, server = launched.info(), find_server(project.runs_dir)
    assert server is not None
    assert info.pid is not None
    control = LocalControl(project.runs_dir)

    first = ask(project, info.run_id)
    os.kill(info.pid, signal.SIGSTOP)  # the trainer cannot have seen it yet
    try:
        with HttpControl(server.url, OwnerToken(server.url, project.runs_dir)) as http:
            approve(http, info.run_id, first)
        os.kill(server.pid, signal.SIGKILL)
    finally:
        os.kill(info.pid, signal.SIGCONT)
    wait_for("the ack", lambda: control.command(info.run_id, first.command_id).ack)
    assert control.command(info.run_id, first.command_id).state is State.APPLIED

    second = ask(project, info.run_id)
    os.kill(info.pid, signal.SIGSTOP)
    approve(control, info.run_id, second)
    os.kill(info.pid, signal.SIGKILL)
    assert launched.end().code == 1
    assert control.command(info.run_id, second.command_id).state is State.EXPIRED
    acks = [e for e in control.events(info.run_id, limit=100_000) if isinstance(e.body, Acked)]
    applied = [e.command_id for e in acks if isinstance(e.body, Acked) and e.body.ack.outcome == "applied"]
    assert applied == [first.command_id]
    assert [e.command_id for e in acks].count(second.command_id) == 1


def test_a_mad_agent_is_turned_away_and_a_person_still_gets_through(project: Project) -> None:
    project.write(args="[]", more="gate: {max_per_minute: 30}\n")
    launched = project.start()
    launched.wait_for_step(1)
    run_id, server = launched.info().run_id, find_server(project.runs_dir)
    assert server is not None
    path = f"{server.url}/api/v1/runs/{run_id}/commands"
    body = {"command": {"kind": "update_optimizer", "lr": 0.05}, "author": {"principal": "agent", "name": "mad"}}
    turned_away = 0
    with httpx.Client(trust_env=False) as mad:
        for _ in range(OVER_HTTP):
            turned_away += mad.post(path, json=body).status_code == 429
    control = LocalControl(project.runs_dir)
    assert turned_away >= OVER_HTTP - 30 * 2  # the minute may have turned once
    assert len(control.commands(run_id)) <= 30 * 2
    size = Path(control.info(run_id).path, "log.db").stat().st_size
    assert size < 2_000_000
    stop(project, run_id)
    assert launched.end().code == 0


def test_turning_away_costs_no_memory(tmp_path: Path) -> None:
    import tracemalloc

    from tests.core.test_approval import Desk

    desk = Desk(tmp_path, max_per_minute=5)
    desk.now_s = time.time()
    for _ in range(5):
        desk.ask(lr=0.0101)
    tracemalloc.start()
    for _ in range(MANY):
        with pytest.raises(TooManyProposals):
            desk.ask(lr=0.0101)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 1_000_000
    assert len(desk.log.commands()) == 5
