"""The other commands of the command line: check, init, schema, report, runs."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

from agenttune import __version__
from agenttune.config import Config, load_config
from agenttune.config.setting import documentation
from agenttune.launch import config_text
from agenttune.protocol.commands import COMMAND_KINDS
from agenttune.protocol.events import RunStarted, StatusChanged
from agenttune.protocol.metrics import Point
from agenttune.protocol.run_info import RunInfo
from agenttune.store.run_log import RunLog
from tests.cli.conftest import ROOT, Project, agenttune
from tests.cli.history import finish, new_log, rescued_run


def test_version_and_help(tmp_path: Path) -> None:
    assert agenttune("--version", cwd=tmp_path).out.strip() == f"agenttune {__version__}"
    shown = agenttune("--help", cwd=tmp_path)
    assert shown.code == 0
    for command in ("run", "check", "report", "runs", "init", "schema", "serve", "attach"):
        assert f"  {command} " in shown.out


def test_help_begins_with_what_a_newcomer_needs(tmp_path: Path) -> None:
    shown = agenttune("--help", cwd=tmp_path).out
    places = [
        shown.index(f"  {command} ") for command in ("init", "check", "run", "runs", "report", "approve", "serve")
    ]
    assert places == sorted(places)


@pytest.mark.parametrize(("typed", "offered"), [("rep", "report"), ("report --for", "--format"), ("approve ye", "yes")])
def test_the_shell_completes(tmp_path: Path, typed: str, offered: str) -> None:
    words = ["agenttune", *typed.split()]
    script = (
        'eval "$(_AGENTTUNE_COMPLETE=source_bash agenttune)"; '
        f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; "
        '_agenttune_completion agenttune; echo "${COMPREPLY[@]}"'
    )
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    done = subprocess.run(
        ["bash", "--norc", "-c", script], check=False, env={"PATH": path}, capture_output=True, text=True
    )
    assert offered in done.stdout.split(), done.stderr


def test_unknown_option_is_refused(tmp_path: Path) -> None:
    result = agenttune("report", "--jsn", cwd=tmp_path)
    assert result.code == 2
    assert "--jsn" in result.err


def test_shipped_config_is_the_one_that_init_writes() -> None:
    assert (ROOT / "config.yaml").read_text(encoding="utf-8") == config_text()


def test_shipped_config_documents_every_key_and_loads() -> None:
    text = config_text()
    config = load_config(ROOT / "config.yaml")
    assert config.gate.bounds["lr"].maximum == 10.0
    assert config.gate.max_change_factor == 100.0
    for name, section in Config.model_fields.items():
        assert f"\n{name}:" in text
        if not (isinstance(section.annotation, type) and issubclass(section.annotation, BaseModel)):
            continue
        for key in section.annotation.model_fields:
            assert f"  {key}:" in text or f"  # {key}:" in text, f"{name}.{key} is not in config.yaml"
            assert documentation(section.annotation).get(key), f"{name}.{key} has no words"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("run:\n  script: x.py\n  nmae: y\n", "config.yaml:3: run.nmae: unknown key; did you mean 'name'?"),
        ("run: {}\n", "config.yaml:1: run: give either 'script' or 'module'"),
        ("run: {script: x.py}\nserver: {port: 99999}\n", "config.yaml:2: server.port"),
        ("run: {script: x.py}\npolicy: gaurdian\n", "no policy 'gaurdian'; did you mean 'guardian'?; there are:"),
        ("run: {script: y.py}\n", "run.script: there is no file"),
        ("run: {module: no_such_module_x}\n", "run.module: there is no module 'no_such_module_x'"),
        ("run: {module: json.nothing}\n", "run.module: there is no module 'nothing' in 'json'"),
        ("run: {module: json.tool.deeper}\n", "run.module: there is no module 'deeper' in 'json.tool'"),
        ("run: {module: collections}\n", "'collections' is a package without a __main__ module"),
        ("run: {module: train.py}\n", "'train.py' is a file's name; set run.script to it"),
        ("run: {module: ''}\n", "'' is no name of a module"),
        ("run: [\n", "not valid YAML"),
    ],
)
def test_wrong_config_is_one_line_and_nothing_starts(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "x.py").write_text("", encoding="utf-8")
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    result = agenttune("run", "config.yaml", cwd=tmp_path)
    assert result.code == 2
    assert said in result.err
    assert result.err.startswith("error: ")
    assert len(result.err.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_a_module_is_looked_for_and_not_imported(tmp_path: Path) -> None:
    for folder, module, text in (("lab", "lab.train", "raise SystemExit('imported')"), ("plain", "plain.go.train", "")):
        path = (tmp_path / folder).joinpath(*module.split(".")[1:]).with_suffix(".py")
        path.parent.mkdir(parents=True)
        path.write_text(text)
        if text:
            (tmp_path / folder / "__init__.py").write_text(text)
        (tmp_path / "config.yaml").write_text(f"run: {{module: {module}}}\n", encoding="utf-8")
        assert f"-m {module}" in agenttune("check", cwd=tmp_path).out


def test_a_script_that_is_not_there_is_looked_for_under_a_similar_name(tmp_path: Path) -> None:
    (tmp_path / "train.py").touch()
    (tmp_path / "config.yaml").write_text("run: {script: trian.py}\n", encoding="utf-8")
    assert "did you mean 'train.py'?" in agenttune("check", cwd=tmp_path).err


def test_missing_config_is_one_line(tmp_path: Path) -> None:
    result = agenttune("check", "nowhere.yaml", cwd=tmp_path)
    assert result.code == 2
    assert "nowhere.yaml: cannot be read" in result.err


def test_schemas_are_json(tmp_path: Path) -> None:
    config = json.loads(agenttune("schema", cwd=tmp_path).out)
    assert config["properties"]["policy"]["description"]
    assert config["additionalProperties"] is False
    commands = json.loads(agenttune("schema", "--commands", cwd=tmp_path).out)
    assert set(commands) == set(COMMAND_KINDS)


def test_report_tells_what_changed_why_and_to_what_end(tmp_path: Path) -> None:
    log = rescued_run(tmp_path / "runs" / "demo-1")
    finish(log)
    log.close()
    shown = agenttune("report", cwd=tmp_path)
    assert shown.code == 0, shown.err
    for expected in (
        "demo-1 finished",
        "result eval_loss 2.25 at step 100",
        "best 2.25 at step 100",
        "guardian",
        "lr 0.5 -> 0.05",
        "not clear: step_loss",
        "non_finite",
        "stop_training is forbidden by gate.forbid",
        str(tmp_path / "runs" / "demo-1" / "log.db"),
    ):
        assert expected in " ".join(shown.out.split()), f"{expected!r} is missing in\n{shown.out}"


def test_report_as_json_names_nan(tmp_path: Path) -> None:
    log = new_log(tmp_path / "runs" / "nan-1")
    log.append(RunStarted(framework="a test", pid=1, max_steps=2))
    log.append_points([Point(step=1, at_s=0.0, values={"eval_loss": math.nan}, source="eval")])
    log.append(StatusChanged(status="finished"))
    log.close()
    shown = json.loads(agenttune("report", "--json", cwd=tmp_path).out, parse_constant=pytest.fail)
    assert shown["score"]["last"]["value"] == "NaN"
    assert "NaN at step 1" in agenttune("report", cwd=tmp_path).out


def test_report_of_an_empty_run_and_of_none(tmp_path: Path) -> None:
    none = agenttune("report", cwd=tmp_path)
    assert none.code == 2
    assert "no runs in runs yet" in none.err
    new_log(tmp_path / "runs" / "empty-1", status="failed", status_reason="port 7007 is taken").close()
    shown = agenttune("report", cwd=tmp_path)
    assert shown.code == 0
    assert "it is failed. port 7007 is taken" in shown.out
    assert "no loss was logged" in shown.out


def test_report_changes_nothing_in_the_log(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "gone-1"
    log = new_log(folder, pid=2**22 + 1, pid_started_s=1.0)
    log.close()
    before = (folder / "log.db").read_bytes()
    shown = agenttune("report", cwd=tmp_path)
    assert f"its process {2**22 + 1} is gone." in shown.out
    assert (folder / "log.db").read_bytes() == before


def test_report_finds_a_run_by_its_beginning(tmp_path: Path) -> None:
    for name in ("alpha-1", "alpha-2", "beta-1"):
        new_log(tmp_path / "elsewhere" / name).close()
    at = ("--runs-dir", "elsewhere")
    assert "beta-1" in agenttune("report", "be", *at, cwd=tmp_path).out
    unclear = agenttune("report", "alpha", *at, cwd=tmp_path)
    assert unclear.code == 2
    assert "2 runs begin with 'alpha'" in unclear.err
    unknown = agenttune("report", "gamma", *at, cwd=tmp_path)
    assert unknown.code == 2
    assert "no run 'gamma' in elsewhere; there are:" in unknown.err


def test_latest_is_the_newest_everywhere(tmp_path: Path) -> None:
    for index in (1, 2):
        info = RunInfo(run_id=f"demo-{index}", name="demo", status="running", created_at_s=1e9 + index)
        RunLog.create(tmp_path / "runs" / info.run_id, info).close()
    for words in (["report"], ["report", "latest"]):
        assert "demo-2" in agenttune(*words, cwd=tmp_path).out


def test_runs_are_listed_newest_first(tmp_path: Path) -> None:
    for index in (1, 2):
        info = RunInfo(run_id=f"demo-{index}", name="demo", status="running", created_at_s=1e9 + index)
        RunLog.create(tmp_path / "runs" / info.run_id, info).close()
    table = agenttune("runs", cwd=tmp_path).out
    assert table.index("demo-2") < table.index("demo-1")
    machine = json.loads(agenttune("runs", "--json", cwd=tmp_path).out)
    assert [run["run_id"] for run in machine] == ["demo-2", "demo-1"]


def test_damaged_log_is_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "bad-1"
    new_log(folder).close()
    (folder / "log.db").write_bytes(b"not a database" * 1000)
    result = agenttune("report", "bad-1", cwd=tmp_path)
    assert result.code in (1, 2)
    assert "Traceback" not in result.err
    assert "bad-1" in result.err


def test_nothing_heavy_is_loaded_for_a_report(project: Project) -> None:
    import subprocess
    import sys

    code = "import sys, agenttune.cli, agenttune.views.terminal, agenttune.launch; print([m for m in "
    code += "('torch', 'transformers', 'fastapi', 'uvicorn') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
