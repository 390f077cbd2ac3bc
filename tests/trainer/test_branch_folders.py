"""After going back, a restart goes on from the branch in force: always, whenever it is killed, and nothing is lost."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from agenttune.trainer.checkpoints.branch_folders import LoopFolder, arrange, keep_within, planned_moves
from agenttune.trainer.checkpoints.checkpoint_catalog import CheckpointCatalog, SavedCheckpoint
from tests.trainer.conftest import At, Back, Bench, Points, Result, TinyModel
from tests.trainer.test_branches import Once, weights

pytestmark = pytest.mark.trainer

Who = tuple[str, int]


class Loop:
    """A run as far as its checkpoints go: it trains, saves as the Trainer does, and goes back."""

    def __init__(self, home: Path, limit: int | None = None) -> None:
        self.folder = LoopFolder(home, limit)
        self.catalog = CheckpointCatalog()
        self.step = 0
        self.saved: dict[Path, Who] = {}
        self.kept: list[Who] = []

    def train(self, steps: int) -> None:
        self.step += steps

    def save(self) -> None:
        path = self.folder.path / f"checkpoint-{self.step}"
        path.mkdir(parents=True, exist_ok=True)
        (path / "who").write_text(f"{self.catalog.branch} {self.step}")
        self.catalog.drop_vanished(but_for=str(path))
        self.catalog.add(SavedCheckpoint(str(path), self.step, self.catalog.branch))

    def go_back(self, number: int, branch: str | None = None) -> Any:
        """To one of those saved."""
        known = list(self.catalog.known.values())
        target = known[number % len(known)]
        branches = self.catalog.branches
        branches.start(branches.new_name(branch), target.branch, target.step, target.checkpoint_id)
        self.step = target.step
        return arrange(self.folder, self.catalog, target)

    def taken(self) -> Who | None:
        """The checkpoint that a restart takes."""
        home = self.folder.path
        newest = get_last_checkpoint(str(home)) if home.is_dir() else None
        return None if newest is None else who(Path(newest))

    def all(self) -> list[Who]:
        return sorted(who(path) for path in self.folder.path.glob("**/checkpoint-*"))


def who(path: Path) -> Who:
    branch, step = (path / "who").read_text().split()
    return branch, int(step)


MOVES = st.lists(st.one_of(st.integers(1, 4), st.just("save"), st.tuples(st.just("back"), st.integers(0, 9))))


@settings(deadline=None, max_examples=60)
@given(MOVES)
def test_a_restart_takes_the_newest_of_the_branch_in_force_and_nothing_is_lost(course: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        loop = Loop(Path(folder) / "out")
        for move in course:
            if isinstance(move, int):
                loop.train(move)
            elif move == "save":
                loop.save()
            elif loop.catalog.known:
                before = loop.all()
                loop.go_back(move[1])
                assert loop.all() == before
            lineage = loop.catalog.branches.lineage()
            mine = [found for found in loop.all() if lineage.has(*found)]
            assert loop.taken() == max(mine, key=lambda found: found[1], default=None)
            for saved in loop.catalog.known.values():
                assert who(Path(saved.path or "")) == (saved.branch, saved.step)


@settings(deadline=None, max_examples=40)
@given(MOVES, st.integers(0, 9), st.integers(0, 9))
def test_killed_in_the_midst_of_a_return_it_takes_one_of_the_old_branch_or_the_new(
    course: list[Any], number: int, killed_after: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        loop = Loop(Path(folder) / "out")
        for move in [2, "save", *course]:
            if isinstance(move, int):
                loop.train(move)
            elif move == "save":
                loop.save()
            else:
                loop.go_back(move[1])
        before, old = loop.all(), loop.catalog.branches.lineage()
        known = list(loop.catalog.known.values())
        stands_on = known[number % len(known)]
        loop.catalog.branches.start("new", stands_on.branch, stands_on.step, stands_on.checkpoint_id)
        for source, goal in planned_moves(loop.folder.path, loop.catalog)[:killed_after]:
            goal.parent.mkdir(parents=True, exist_ok=True)
            source.rename(goal)
        taken, new = loop.taken(), loop.catalog.branches.lineage()
        assert taken is None or old.has(*taken) or new.has(*taken)
        assert loop.all() == before


def test_an_earlier_runs_folders_of_the_same_names_stay(tmp_path: Path) -> None:
    for _ in range(2):
        loop = Loop(tmp_path)
        for _ in range(3):
            loop.train(2)
            loop.save()
        arranged = loop.go_back(0)
        assert arranged.problem == ""
    assert {str(p.parent.relative_to(tmp_path)) for p in tmp_path.glob("branches/*/checkpoint-4")} == {
        "branches/main",
        "branches/main-2",
    }


def test_the_limit_holds_over_branches_together(tmp_path: Path) -> None:
    loop = Loop(tmp_path, limit=3)
    for _ in range(3):
        loop.train(2)
        loop.save()
    loop.go_back(0)
    for expected in ([("branch-1", 4), ("main", 2), ("main", 6)], [("branch-1", 4), ("branch-1", 6), ("main", 2)]):
        loop.train(2)
        loop.save()
        deleted = keep_within(loop.folder, loop.catalog)
        assert [event.reason for event in deleted] == ["to stay within save_total_limit=3, over all branches"]
        assert loop.all() == expected


def test_a_folder_that_cannot_be_moved_is_told(tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    for _ in range(2):
        loop.train(2)
        loop.save()
    (tmp_path / "branches").write_text("a file of the user's")
    arranged = loop.go_back(0)
    assert f"{tmp_path / 'checkpoint-4'} could not be moved" in arranged.note
    assert "goes on from checkpoint-4, of main" in arranged.note


# -- with a real Trainer -----------------------------------------------------------------------------------------


class Preempted(TrainerCallback):  # type: ignore[misc]
    """Interrupts after so many steps, those of all branches counted."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


LOAD = {"kind": "load_checkpoint"}
HOW: dict[str, Any] = {"save_strategy": "steps", "save_steps": 3, "max_steps": 20, "data_seed": 3}


def preempted(bench: Bench, orders: list[At], steps: int, **how: Any) -> Result:
    callbacks = [Once(bench.runs_dir, orders), Preempted(steps)]
    result = bench.trainer(callbacks=callbacks, **{**HOW, **how})
    with pytest.raises(KeyboardInterrupt):
        result.trainer.train()
    return result


def resumed(bench: Bench, **how: Any) -> Any:
    """The usual restart, with a plain Trainer."""
    model = TinyModel()
    again = Trainer(model=model, args=bench.arguments(**{**HOW, **how}), train_dataset=Points(64))
    again.train(resume_from_checkpoint=True)
    return again


def test_a_restart_continues_the_branch_that_training_stood_on(bench: Bench) -> None:
    """Back to a state of the run's own, with another rate there; the weights at the end are that branch's."""
    orders = [
        At(4, {"kind": "save_checkpoint", "tag": "good"}),
        At(8, {**LOAD, "checkpoint_id": "good"}),
        At(5, {"kind": "update_optimizer", "weight_decay": 0.5}),  # at step 5 of main
    ]
    whole = bench.trainer(callbacks=[Once(bench.runs_dir, orders[:2])], **HOW)
    whole.trainer.train()
    interrupted = preempted(Bench(bench.path / "b"), orders, 15)
    assert interrupted.trainer.state.global_step == 11
    again = resumed(Bench(bench.path / "b"))
    assert again.state.log_history[0]["step"] == 1
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), again.model.parameters(), strict=True))
    message = interrupted.acks()[-1].message
    assert "a restart with resume_from_checkpoint=True goes on from checkpoint-3, of main" in message
    assert f"later ones of what was left are in {bench.path / 'b' / 'out' / 'branches' / 'main'}" in message


def test_several_returns_to_the_trainers_own_checkpoints(bench: Bench) -> None:
    """One that was moved aside can be gone back to; then it is where a restart looks, with what it stands on."""

    back = Back((8, "main", 3), (10, "main", 6), (8, "branch-1", 9))
    result = bench.trainer(callbacks=[back], **HOW, eval_strategy="steps", eval_steps=3, load_best_model_at_end=True)
    back.result = result
    result.trainer.train()
    assert [ack.outcome for ack in result.acks()] == ["applied"] * 3
    out = bench.path / "out"
    assert [str(p.relative_to(out)) for p in sorted(out.glob("branches/*/*"))] == ["branches/main/checkpoint-6"]
    assert sorted(int(p.name[11:]) for p in out.glob("checkpoint-*")) == [3, 6, 9, 12, 15, 18, 20]
    best = Path(result.trainer.state.best_model_checkpoint)
    assert best.is_dir()
    assert best.parent == out
    notes = [ack.result["restart_from"] for ack in result.acks()]
    assert notes == [str(out / f"checkpoint-{step}") for step in (3, 6, 9)]
