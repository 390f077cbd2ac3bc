"""A schedule file does at its steps what it says, once, and says what it could not do."""

from __future__ import annotations

from pathlib import Path

import pytest

from agenttune.config import load_yaml
from agenttune.errors import ConfigError
from agenttune.policy.base import Decision, Policy
from agenttune.policy.load import load_policy
from agenttune.policy.schedule import ScheduleFile
from agenttune.protocol.commands import UpdateOptimizer
from agenttune.protocol.lineage import Lineage, Segment
from agenttune.protocol.proposals import CommandRecord, State
from tests.policy.conftest import applied, observe
from tests.replay.conftest import changes_of, steer

TWO = """\
type: schedule
tolerance_steps: 5
entries:
  - at_step: 30
    do: {command: update_optimizer, lr: 0.02}
    because: late
  - at_step: 10
    do: {command: update_optimizer, lr: 0.05}
    because: the loss rises
  - at_step: 10
    do: {command: update_optimizer, weight_decay: 0.1}
"""


def policy_of(tmp_path: Path, text: str = TWO) -> Policy:
    path = tmp_path / "plan.yaml"
    path.write_text(text, encoding="utf-8")
    return load_policy(str(path))


def after(policy: Policy, step: int, commands: list[CommandRecord] | None = None) -> Decision:
    return policy.decide(observe([1.0] * step, commands=commands or []))


def test_each_entry_lands_at_its_step_and_only_once(tmp_path: Path, runs_dir: Path) -> None:
    text = TWO.replace("  - at_step: 10\n    do: {command: update_optimizer, weight_decay: 0.1}\n", "")
    run = steer(runs_dir, policy_of(tmp_path, text), lr=0.1, steps=50)
    assert changes_of(run) == [(10, 0.05), (30, 0.02)]
    assert [c.proposal.rationale for c in run.log.commands()] == ["at_10: the loss rises", "at_30: late"]
    run.close()


def test_entries_of_one_step_are_given_together_and_valid_for_the_tolerance(tmp_path: Path) -> None:
    policy = policy_of(tmp_path)
    assert after(policy, 9).proposals == []
    assert "next at step 10" in after(policy, 9).reason
    decision = after(policy, 12)
    assert [draft.command for draft in decision.proposals] == [
        UpdateOptimizer(lr=0.05),
        UpdateOptimizer(weight_decay=0.1),
    ]
    assert {draft.valid_for_steps for draft in decision.proposals} == {3}


def test_an_entry_that_is_too_late_is_dropped_and_said_so(tmp_path: Path) -> None:
    decision = after(policy_of(tmp_path), 16)
    assert decision.proposals == []
    assert "dropped, more than 5 steps late: update_optimizer at step 10" in decision.reason


def test_a_restarted_agent_goes_on_where_it_was(tmp_path: Path) -> None:
    done = [applied(10, 0.05, "at_10: the loss rises"), applied(10, 0.05, "at_10_2: ")]
    assert after(policy_of(tmp_path), 12, done).proposals == []
    half = after(policy_of(tmp_path), 12, done[:1])
    assert [draft.command for draft in half.proposals] == [UpdateOptimizer(weight_decay=0.1)]


def test_what_was_asked_and_refused_is_not_asked_again(tmp_path: Path) -> None:
    refused = applied(30, 0.02, "at_30: late", state=State.REJECTED)
    assert after(policy_of(tmp_path), 31, [refused]).proposals == []


def test_after_a_return_the_entries_ahead_are_given_again(tmp_path: Path) -> None:
    left_behind = [applied(30, 0.02, "at_30: late")]
    observation = observe([1.0] * 31, commands=left_behind)
    line = Lineage(segments=[Segment(branch="main", last_step=20), Segment(branch="retry")])
    decision = policy_of(tmp_path).decide(observation.model_copy(update={"branch": "retry", "lineage": line}))
    assert [draft.command for draft in decision.proposals] == [UpdateOptimizer(lr=0.02)]


@pytest.mark.parametrize(
    ("entry", "line", "problem"),
    [
        ("  - at_step: -1\n    do: {command: do_evaluate}", 3, "at_step"),
        ("  - at_step: 5\n    do: {command: update_optimiser, lr: 0.1}", 4, "did you mean 'update_optimizer'"),
        ("  - at_step: 5\n    do: {command: update_optimizer, lr: much}", 4, "valid number"),
        ("  - at_step: 5\n    do: {command: update_optimizer, lr: .nan}", 4, "finite"),
        ("  - at_step: 5\n    do: {command: update_optimizer}", 4, "nothing to change"),
        ("  - at_step: 5\n    do: {command: load_checkpoint, checkpoint_id: c}", 4, "cannot stand in a schedule"),
        ("  - at_step: 5\n    do: {command: do_evaluate}\n    why: so", 5, "unknown key"),
        ("  - do: {command: do_evaluate}", 3, "required"),
    ],
)
def test_a_wrong_file_is_refused_with_its_line(tmp_path: Path, entry: str, line: int, problem: str) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(f"type: schedule\nentries:\n{entry}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=problem) as error:
        load_policy(str(path))
    assert error.value.message.startswith(f"{path}:{line}: ")


def test_an_empty_schedule_does_nothing(tmp_path: Path) -> None:
    policy = policy_of(tmp_path, "type: schedule\nentries: []\n")
    assert after(policy, 3) == Decision(reason="the schedule is at its end")
    assert load_yaml(tmp_path / "plan.yaml", ScheduleFile).tolerance_steps == 50
