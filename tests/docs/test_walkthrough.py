"""The README and the walk-through do what they say: their files pass `check`, run, and their Python holds."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from agenttune.config import Config, load_config
from agenttune.launch.first_config import EXAMPLE_SCRIPT, FoundScript, first_config
from agenttune.protocol.proposals import State
from agenttune.store.run_log import RunLog, list_runs
from docs.generate import DOCS
from docs.newcomer import BEGIN, END
from tests.cli.conftest import Project, agenttune, project

__all__ = ["project"]  # a fixture

README = (DOCS.parent / "README.md").read_text(encoding="utf-8")
PAGE = (DOCS / "walkthrough.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)(?: file=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: str, language: str) -> list[tuple[str, str]]:
    """Name of the file, if it is one, and text."""
    return [(name, text) for found, name, text in BLOCK.findall(page) if found == language]


def test_the_readme_shows_what_init_writes() -> None:
    assert blocks(README, "python") == [("", EXAMPLE_SCRIPT)]
    assert blocks(README, "yaml")[0] == ("", first_config(FoundScript("train.py", is_open=True, evaluates=True)))
    statements = [line for line in EXAMPLE_SCRIPT.splitlines() if line]
    assert len(statements) == 8


def test_the_readme_is_short_and_names_both_commands() -> None:
    assert len(README.splitlines()) <= 205  # about 160, with the lines that a run really printed
    assert "make run " in README
    assert "make test " in README


def test_the_output_in_the_readme_is_of_a_run_that_was_rescued() -> None:
    shown = README.split(BEGIN)[1].split(END)[0]
    for words in ("control server http://", "evaluated: eval_loss", "found: ", "applied: lr ", " finished", "goal "):
        assert words in shown, "run python -m docs.newcomer"
    assert "/tmp/" not in shown


@pytest.mark.parametrize("page", [README, PAGE], ids=["README", "walkthrough"])
def test_settings_on_the_pages_are_accepted(tmp_path: Path, page: str) -> None:
    for name, text in blocks(page, "yaml"):
        if not name:
            whole = {"run": {"script": "train.py"}, **yaml.safe_load(text)}
            (tmp_path / "config.yaml").write_text(yaml.safe_dump(whole), encoding="utf-8")
            assert isinstance(load_config(tmp_path / "config.yaml"), Config)


@pytest.mark.parametrize("page", [README, PAGE], ids=["README", "walkthrough"])
def test_commands_on_the_pages_exist(tmp_path: Path, page: str) -> None:
    known = re.findall(r"^  ([a-z]+)  ", agenttune("--help", cwd=tmp_path).out, re.MULTILINE)
    prose = re.sub(r"```(python|console).*?```", "", page, flags=re.DOTALL)
    named = set(re.findall(r"(?:^|`|&& )agenttune ([a-z]+)\b", prose, re.MULTILINE))
    assert named - set(known) == set()
    assert {"init", "check", "run", "report"} & named


def test_python_on_the_walk_through_holds() -> None:
    for name, text in blocks(PAGE, "python"):
        if not name:
            exec(compile(text, "walkthrough.md", "exec"), {})  # its assertions are the test


@pytest.mark.trainer
def test_the_files_of_the_walk_through_run(project: Project) -> None:
    for language in ("python", "yaml"):
        for name, text in blocks(PAGE, language):
            if name:
                (project.folder / name).write_text(text, encoding="utf-8")
    # Lockstep, so that the plan's steps are met however slow the agent starts on a busy machine.
    own = f"server: {{port: 0}}\nstore: {{runs_dir: {project.runs_dir}}}\nwake: {{mode: lockstep, every_steps: 10}}\n"
    (project.folder / "config.yaml").write_text(blocks(PAGE, "yaml")[0][1] + own, encoding="utf-8")
    checked = agenttune("check", cwd=project.folder)
    assert checked.code == 0, checked.err
    result = project.run()
    assert result.code == 0, result.err
    with closing(RunLog.open(Path(list_runs(project.runs_dir)[0].path))) as log:
        applied = {record.command.kind for record in log.commands(State.APPLIED)}
    assert applied == {"set_knob", "model_layer_operation"}
    assert "input_dropout" in result.out
