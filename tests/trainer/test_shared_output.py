"""An output folder that others use or have used: it is said once and plainly, and nothing of theirs passes for ours."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agenttune.errors import UserError
from agenttune.store.process_liveness import started_s
from agenttune.trainer.checkpoints.checkpoint_catalog import CheckpointCatalog, SavedCheckpoint
from agenttune.trainer.checkpoints.manifest import MANIFEST
from agenttune.trainer.opening import NAME, claim, release
from agenttune.views.event_lines import lines_of
from tests.trainer.conftest import Bench, TinyModel
from tests.trainer.test_branches import Doing

pytestmark = pytest.mark.trainer


def notes(result: Any) -> list[str]:
    return [body.text for body in result.bodies("note_added")]


@pytest.mark.parametrize("lives", [True, False])
def test_a_second_run_in_one_folder_is_told_of_the_first(bench: Bench, lives: bool) -> None:
    out = bench.path / "out"
    out.mkdir()
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    marker = {"run_id": "first-run", "pid": other.pid, "pid_started_s": started_s(other.pid)}
    (out / NAME).write_text(json.dumps(marker))
    if not lives:
        other.kill()
        other.wait()
    try:
        result = bench.run(max_steps=3)
    finally:
        other.kill()
        other.wait()
    told = [text for text in notes(result) if "first-run" in text and str(out) in text]
    assert len(told) == lives
    assert not (out / NAME).exists()


def test_a_note_of_anothers_is_left_alone(tmp_path: Path) -> None:
    claim(tmp_path, "mine")
    (tmp_path / NAME).write_text(json.dumps({"run_id": "theirs", "pid": 1}))
    release(tmp_path, "mine")
    assert (tmp_path / NAME).exists()
    assert claim(tmp_path / "nowhere", "mine") is None


def test_of_two_that_come_at_once_one_sees_the_other(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from agenttune.trainer.opening import claim; "
    code += "print(flush=True); input(); "
    code += "[print(claim(Path(folder), sys.argv[1]) is not None, flush=True) for folder in sys.argv[2:]]; input()"
    folders = [tmp_path / str(number) for number in range(10)]
    for folder in folders:
        folder.mkdir()
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    both: list[Any] = [
        subprocess.Popen([sys.executable, "-c", code, name, *map(str, folders)], **pipes) for name in "ab"
    ]
    try:
        for process in both:
            process.stdout.readline()
        for process in both:
            process.stdin.write("\n")
            process.stdin.flush()
        saw = [[process.stdout.readline().strip() for _ in folders] for process in both]
    finally:
        for process in both:
            process.kill()
            process.wait()
    assert all(sorted(pair) == ["False", "True"] for pair in zip(*saw, strict=True)), saw


def written_over(path: Path) -> None:
    manifest = json.loads((path / MANIFEST).read_text())
    (path / MANIFEST).write_text(json.dumps({**manifest, "run": "other-run"}))
    (path / "optimizer.pt").write_bytes(b"longer than before")


def test_a_checkpoint_that_another_run_has_written_over_is_no_longer_listed(bench: Bench) -> None:
    path = bench.path / "out" / "checkpoint-3"
    bench_run = bench.run(callbacks=[Doing(5, lambda: written_over(path))], save_strategy="steps", save_steps=3)
    [gone] = bench_run.bodies("checkpoint_deleted")
    assert gone.reason == f"{path} was written over by run other-run"


def test_nor_is_it_called_damaged(tmp_path: Path) -> None:
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    path = tmp_path / "checkpoint-3"
    path.mkdir()
    (path / MANIFEST).write_text(json.dumps({"step": 3, "branch": "main"}))
    written_over(path)
    mine = CheckpointCatalog(tmp_path / "runs" / "mine" / "checkpoints")
    with pytest.raises(UserError, match="was written by run other-run"):
        mine.read(SavedCheckpoint(str(path), 3), TinyModel())


def test_what_lay_there_before_takes_one_line(bench: Bench) -> None:
    bench.run(form="plain", max_steps=9, save_strategy="steps", save_steps=1)
    result = bench.trainer(max_steps=11, save_strategy="steps", save_steps=1)
    result.trainer.train(resume_from_checkpoint=True)
    shown = [line.text for event in result.events() for line in lines_of(event, lambda _: None)]
    assert [text for text in shown if "of before this run" in text] == [
        f"agenttune: 8 checkpoints of before this run lie in {bench.path / 'out'}"
    ]
    saved = [line for event in result.events("checkpoint_saved") for line in lines_of(event, lambda _: None)]
    assert len(saved) == 3, "the one that it began from, and two of its own"
