"""`agenttune init` as a newcomer types it: whatever it writes passes `check`."""

from __future__ import annotations

import os
import pty
import sys
from pathlib import Path

import pytest
import yaml

from agenttune.config import load_config
from agenttune.launch.first_config import EXAMPLE_SCRIPT, MAX_DEPTH, find_scripts
from tests import warm
from tests.cli.conftest import agenttune, environment

OPEN = "from agenttune import make_interactive\nmake_interactive(Trainer)(eval_dataset=x)\n"
PLAIN = "from transformers import Trainer\nTrainer(model=model).train()\n"
OTHER = "import torch\n# Trainer( is not used here\n"


def place(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


@pytest.mark.quick("short-*", "full-files1-*")
@pytest.mark.parametrize(
    ("files", "script"),
    [
        ({"train.py": OPEN}, "train.py"),
        ({"train.py": OPEN, "old.py": PLAIN, "data.py": OTHER}, "train.py"),  # open to an agent goes before plain
        ({"fit.py": PLAIN, "data.py": OTHER}, "fit.py"),
        ({"src/lab/go.py": "import agenttune\nwith agenttune.session(model=m) as s: ...\n"}, "src/lab/go.py"),
        ({"light.py": "trainer = L.Trainer(callbacks=[agenttune.LightningCallback()])\n"}, "light.py"),
        ({"sft.py": "SFTTrainer(model, train_dataset=d).train()\n"}, "sft.py"),
        ({"a b.py": OPEN}, "a b.py"),
        ({"no.py": OPEN, ".venv/lib/x.py": OPEN, "env/pyvenv.cfg": "", "env/y.py": OPEN, "a/b/c/d.py": OPEN}, "no.py"),
    ],
)
@pytest.mark.parametrize("options", [[], ["--full"]], ids=["short", "full"])
def test_the_script_is_found_and_the_file_passes_check(
    tmp_path: Path, files: dict[str, str], script: str, options: list[str]
) -> None:
    place(tmp_path, files)
    written = agenttune("init", *options, cwd=tmp_path)
    assert written.code == 0, written.err
    assert "next: agenttune check, then: agenttune run" in written.out
    assert ("make_interactive(Trainer)" in written.out) == (
        (PLAIN in files.values() and len(files) == 2) or "sft.py" in files
    )
    assert load_config(tmp_path / "config.yaml").run.script == script
    checked = agenttune("check", cwd=tmp_path)
    assert checked.code == 0, checked.err
    assert script in checked.out
    assert not (tmp_path / "runs").exists(), "check starts and writes nothing"


def test_what_is_written_is_short_and_says_where_more_is(tmp_path: Path) -> None:
    place(tmp_path, {"train.py": OPEN})
    agenttune("init", cwd=tmp_path)
    lines = (tmp_path / "config.yaml").read_text(encoding="utf-8").splitlines()
    comments = [line for line in lines if line.startswith("#")]
    assert (len(comments), len(lines) - len(comments)) == (2, 5)
    assert "init --full" in " ".join(comments)
    assert yaml.safe_load("\n".join(lines))["goal"] == {"metric": "eval_loss", "direction": "minimize"}


def test_a_script_that_does_not_evaluate_goes_by_its_loss(tmp_path: Path) -> None:
    place(tmp_path, {"train.py": PLAIN})
    agenttune("init", cwd=tmp_path)
    assert load_config(tmp_path / "config.yaml").goal.metric == "loss"


@pytest.mark.parametrize(
    ("files", "words", "said"),
    [
        ({}, [], "agenttune init --example"),
        ({"data.py": OTHER}, [], "no training script is in"),
        ({"a.py": OPEN, "b.py": OPEN}, [], "several training scripts are here: a.py, b.py; name one with --script"),
        ({"train.py": OPEN}, ["--script", "trian.py"], "did you mean 'train.py'?"),
        ({"config.yaml": "mine", "train.py": OPEN}, [], "overwrite it with --force"),
        ({"train.py": "mine"}, ["--example"], "train.py exists already"),
    ],
)
def test_what_cannot_be_written_says_what_to_do(
    tmp_path: Path, files: dict[str, str], words: list[str], said: str
) -> None:
    place(tmp_path, files)
    refused = agenttune("init", *words, cwd=tmp_path)
    assert refused.code == 2
    assert said in refused.err
    assert (tmp_path / "config.yaml").is_file() == ("config.yaml" in files)
    assert all((tmp_path / name).read_text(encoding="utf-8") == text for name, text in files.items())


def test_force_overwrites_and_another_name_is_told(tmp_path: Path) -> None:
    place(tmp_path, {"config.yaml": "mine", "train.py": OPEN})
    assert agenttune("init", "--force", str(tmp_path), cwd=tmp_path).code == 0
    assert load_config(tmp_path / "config.yaml").run.script == "train.py"
    assert "agenttune run other.yaml" in agenttune("init", "other.yaml", "--script", "train.py", cwd=tmp_path).out


def test_the_example_is_written_and_passes_check(tmp_path: Path) -> None:
    written = agenttune("init", "--example", cwd=tmp_path)
    assert written.code == 0, written.err
    assert (tmp_path / "train.py").read_text(encoding="utf-8") == EXAMPLE_SCRIPT
    assert agenttune("check", cwd=tmp_path).code == 0
    assert [script.evaluates for script in find_scripts(tmp_path)] == [True]


def test_a_deep_tree_is_not_looked_through(tmp_path: Path) -> None:
    deep = "/".join("abcdefgh"[: MAX_DEPTH + 1])
    place(tmp_path, {f"{deep}/train.py": OPEN})
    assert find_scripts(tmp_path) == []


@pytest.mark.parametrize(("files", "typed"), [({"a.py": OPEN, "b.py": OPEN}, "b.py"), ({"b.py": OTHER}, "b.py")])
def test_at_a_terminal_it_asks(tmp_path: Path, files: dict[str, str], typed: str) -> None:
    place(tmp_path, files)
    master, child = pty.openpty()
    command = [sys.executable, "-m", "agenttune", "init"]
    process = warm.Popen(command, cwd=tmp_path, env=environment(), stdin=child, stdout=child, stderr=child)
    os.close(child)
    os.write(master, f"{typed}\n".encode())
    assert process.wait(60) == 0, os.read(master, 10_000)
    os.close(master)
    assert load_config(tmp_path / "config.yaml").run.script == typed
