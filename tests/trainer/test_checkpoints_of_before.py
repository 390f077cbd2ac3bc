"""An output folder that was used before: an agent never ends up in another run; an operator may go there knowingly."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from agenttune.control import LocalControl
from agenttune.control.reader import ControlReader
from agenttune.llm.tools import offered_reads
from agenttune.protocol.proposals import Ack, Author, Proposal, Verdict
from agenttune.store.run_log import RunLog, list_runs, run_folder
from tests.trainer.conftest import Bench, Result
from tests.trainer.test_branches import Doing

pytestmark = pytest.mark.trainer


@pytest.fixture
def used(bench: Bench) -> Bench:
    """An output folder with `checkpoint-3`, `checkpoint-6` and `checkpoint-9` of an earlier run."""
    bench.run(form="plain", max_steps=9, save_strategy="steps", save_steps=3)
    return bench


def load(bench: Bench, checkpoint_id: str, principal: str) -> None:
    log = RunLog.open(run_folder(bench.runs_dir, list_runs(bench.runs_dir)[0].run_id))
    proposal = Proposal.model_validate(
        {
            "command": {"kind": "load_checkpoint", "checkpoint_id": checkpoint_id},
            "author": Author(principal=principal, name="x"),
        }
    )
    log.submit(proposal, Verdict(decision="approved", decided_by="test"))
    log.close()


def run(bench: Bench, checkpoint_id: str, principal: str, resume: Any = None, **how: Any) -> tuple[Result, Ack]:
    doing = Doing(11, lambda: load(bench, checkpoint_id, principal))
    result = bench.trainer(callbacks=[doing], max_steps=14, **how)
    result.trainer.train(resume_from_checkpoint=resume)
    return result, result.ack


def offered(result: Result, is_operators: bool = False) -> list[str]:
    runs_dir = result.runs_dir
    run_id = list_runs(runs_dir)[0].run_id
    reader = ControlReader(LocalControl(runs_dir), run_id, is_operators)
    tool = offered_reads()["list_checkpoints"]
    answer = json.loads(tool.answer(reader, tool.arguments()))
    return [row["checkpoint_id"] for row in rows_of(answer["checkpoints"]) if not row.get("kept_as")]


def rows_of(table: Any) -> list[dict[str, Any]]:
    if isinstance(table, dict):
        return [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]
    return list(table)


def test_an_agent_is_neither_offered_nor_given_a_checkpoint_of_before(used: Bench) -> None:
    result, ack = run(used, "checkpoint-6", "agent")
    assert ack.outcome == "failed"
    assert "checkpoint 'checkpoint-6' is of before this run" in ack.message
    assert "operator" in ack.message
    assert offered(result) == []
    assert offered(result, is_operators=True) == ["checkpoint-3", "checkpoint-6", "checkpoint-9"]
    assert result.trainer.state.global_step == 14


def test_an_operator_may_load_it(used: Bench) -> None:
    _, ack = run(used, "checkpoint-6", "operator")
    assert (ack.outcome, ack.step) == ("applied", 6)


@pytest.mark.parametrize("resume", [True, "path"])
def test_the_checkpoint_that_a_run_began_from_is_its_own(used: Bench, resume: Any) -> None:
    output_dir = used.path / "out"
    result, ack = run(used, "checkpoint-9", "agent", str(output_dir / "checkpoint-9") if resume == "path" else True)
    assert (ack.outcome, ack.step) == ("applied", 9)
    assert offered(result) == ["checkpoint-9"]


def test_one_from_another_folder_is_its_own_too(used: Bench) -> None:
    """And is found by its name, which one of before has as well."""
    elsewhere = used.path / "elsewhere" / "checkpoint-9"
    shutil.copytree(used.path / "out" / "checkpoint-9", elsewhere)
    result, ack = run(used, "checkpoint-9", "agent", str(elsewhere))
    assert (ack.outcome, ack.step) == ("applied", 9)
    saved = {body.checkpoint_id: body for body in result.bodies("checkpoint_saved")}
    assert Path(saved["checkpoint-9"].path) == elsewhere
    assert saved["before-checkpoint-9"].is_before
    assert [name for name, body in saved.items() if body.is_before] == [
        "checkpoint-3",
        "checkpoint-6",
        "before-checkpoint-9",
    ]
