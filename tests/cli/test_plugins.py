"""Policies and detectors of the user's own on the command line: checked, listed, and at work beside a run."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from agenttune.config.plugins import PluginUse
from agenttune.launch import plugin_trials
from agenttune.launch.plugin_trials import PluginTrials
from tests.cli.conftest import Project, agenttune, wait_for
from tests.plugin_files import install, write_plugins

MARK = "import os, pathlib\npathlib.Path(__file__).with_suffix('.ran').write_text(str(os.getpid()))\n"


def write(folder: Path, policy: str, more: str = "") -> None:
    (folder / "config.yaml").write_text(f"run: {{script: mine.py}}\npolicy: {policy}\n{more}", encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_plugins(tmp_path)


def test_check_tries_a_class_in_a_process_of_its_own(folder: Path) -> None:
    text = (folder / "mine.py").read_text(encoding="utf-8")
    (folder / "mine.py").write_text(text.replace("print(", f"{MARK}print(", 1), encoding="utf-8")
    write(folder, "./mine.py:Halve", "detectors: [./mine.py:Odd]\n")
    result = agenttune("check", cwd=folder)
    assert (result.code, result.err) == (0, "")
    assert "policy     ./mine.py:Halve" in result.out
    assert (folder / "mine.ran").read_text(encoding="utf-8") != str(os.getpid())


def test_a_file_that_is_only_found_by_a_name_is_never_run(folder: Path) -> None:
    (folder / "policies").mkdir()
    for path in (folder / "halve.py", folder / "policies" / "halve.py"):
        path.write_text(MARK + "from mine import Halve\n", encoding="utf-8")
    write(folder, "halve")
    result = agenttune("check", cwd=folder)
    assert result.code == 2
    assert "no policy 'halve'" in result.err
    assert "mine.py:Mine" in result.err
    agenttune("policies", "--all", cwd=folder)
    assert not list(folder.rglob("*.ran"))


BROKEN = {
    "./quits.py:Any": "its code ended the process (exit status 3)",
    "./broken.py:Any": "cannot be used: RuntimeError: at module level (broken.py:1)",
    "./mine.py:Halv": "did you mean 'Halve'?",
}


@pytest.mark.parametrize("reference", BROKEN)
def test_check_says_what_is_wrong_also_where_rules_would_go_on(folder: Path, reference: str) -> None:
    (folder / "p.yaml").write_text(f"type: escalation\npolicies: [guardian, {reference}]\n", encoding="utf-8")
    write(folder, "p.yaml")
    result = agenttune("check", cwd=folder)
    assert result.code == 2
    assert BROKEN[reference] in result.err
    assert len(result.err.splitlines()) == 1


def test_check_reads_which_adapter_the_script_names(folder: Path) -> None:
    script, named = folder / "train.py", "with agenttune.session(model=m, optimizer=o, adapter='./gone.py:Loop') as s:"
    (folder / "config.yaml").write_text("run: {script: train.py}\npolicy: noop\n", encoding="utf-8")
    script.write_text(f"import agenttune\n{named}\n    pass\n", encoding="utf-8")
    wrong = agenttune("check", cwd=folder)
    assert wrong.code == 2
    assert f"train.py:2: adapter './gone.py:Loop': there is no file {folder / 'gone.py'}" in wrong.err
    script.write_text(f"import agenttune, os\nos.chdir('deeper')\n{named}\n    pass\n", encoding="utf-8")
    assert agenttune("check", cwd=folder).code == 0, "where it will lie is not known before the script runs"


def test_code_that_hangs_holds_no_start_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin_trials, "TRIAL_LIMIT_S", 0.3)
    tried = PluginTrials(folder)(PluginUse("policy", "./hangs.py:Any", (folder,)))
    assert tried.fault == "policy ./hangs.py:Any cannot be used: it was not ready after 0.3 s"


def test_policies_lists_what_is_shipped_written_and_installed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(folder, monkeypatch, {"agenttune.policies": {"halve": "mine:Halve", "gone": "nowhere:Gone"}})
    listed = json.loads(agenttune("policies", "--all", "--json", cwd=folder).out)
    by_name = {item["name"]: item for item in listed}
    assert by_name["guardian"]["origin"] == "shipped"
    assert by_name["./mine.py:Halve"]["parameters"][0] == "at_step: int = 10"
    assert by_name["./mine.py:Odd"]["kind"] == "detector"
    assert by_name["halve"]["origin"] == "strangers 1.2"
    assert by_name["halve"]["summary"] == "Halves the rate once, from a step on."
    factor = "factor: float, > 0, < 1 = 0.5: What the rate is multiplied with."
    assert by_name["halve"]["parameters"] == ["at_step: int = 10", factor]
    assert "No module named 'nowhere'" in by_name["gone"]["summary"]
    assert "every_steps: int, >= 1 = 50" in " ".join(by_name["random"]["parameters"])
    assert {item["kind"] for item in listed} >= {"policy", "policy type", "detector"}
    shown = agenttune("policies", "./mine.py:Halve", "./mine.py:Odd", cwd=folder)
    assert factor in shown.out
    assert "every: int = 2" in shown.out
    assert agenttune("policies", "./mine.py:Halv", cwd=folder).code == 2


def test_a_run_goes_by_them_and_survives_what_fails(project: Project) -> None:
    write_plugins(project.folder)
    parts = "- ./broken.py:Any\n- ./mine.py:Raises\n- {type: ./mine.py:Halve, at_step: 5}\n"
    (project.folder / "p.yaml").write_text(f"type: escalation\npolicies:\n{parts}", encoding="utf-8")
    project.write(
        args="[]", more="detectors: [./mine.py:Shaky, ./broken.py:Any]\nwake: {every_steps: 5, poll_s: 0.05}\n"
    )
    text = (project.folder / "config.yaml").read_text(encoding="utf-8")
    (project.folder / "config.yaml").write_text(text.replace("policy: noop", "policy: p.yaml"), encoding="utf-8")
    launched = project.start()

    def found() -> bool:
        return '"shaky"' in "".join(launched.events("found"))

    wait_for("a finding", lambda: found() and launched.events("judged"))
    launched.stop_training()
    result = launched.end()
    assert result.code == 0, result.err
    assert "broken.py:Any cannot be used: RuntimeError: at module level (broken.py:1)" in result.out
    decided = [json.loads(event) for event in launched.events("decided")]
    told = [d["reason"] for d in decided if d["woken_by"].startswith("detector")]
    assert any("detector ./broken.py:Any cannot be used" in reason for reason in told)
    assert any("ValueError: oh no" in d["reason"] for d in decided)
    assert '"approved"' in launched.events("judged")[0]


BESIDE = """
from pathlib import Path

from agenttune.gate import Approver
from agenttune.server.notify import Channel


class Yes(Approver):
    def decide(self, case):
        return self.approve(f"seen at step {case.observation.step}")


class Hangs(Approver):
    def decide(self, case):
        import threading

        threading.Event().wait()


class ToFile(Channel):
    def __init__(self, path: str):
        self.path = Path(path)

    def send(self, title, body):
        self.path.write_text(title)
        return True
"""


def test_approvers_and_channels_work_in_a_process_beside_the_run(project: Project) -> None:
    write_plugins(project.folder)
    (project.folder / "beside.py").write_text(BESIDE, encoding="utf-8")
    project.write(
        args="[]",
        more="gate:\n"
        "  approvers: {yes_man: ./beside.py:Yes, hangs: ./beside.py:Hangs}\n"
        "  approval:\n"
        "  - {name: slow, commands: [add_note], approvers: [hangs]}\n"
        "  - {name: quick, approvers: [yes_man]}\n"
        "notify: {on: [ended], channels: [{type: ./beside.py:ToFile, path: told.txt}]}\n"
        "wake: {every_steps: 5, poll_s: 0.05}\n",
    )
    text = (project.folder / "config.yaml").read_text(encoding="utf-8")
    (project.folder / "config.yaml").write_text(text.replace("policy: noop", "policy: ./mine.py:Halve"), "utf-8")
    launched = project.start()
    wait_for("a verdict", lambda: any('"approver:yes_man"' in event for event in launched.events("judged")))
    wrong = agenttune("swap", "latest", "--policy", "./mine.py:Plan", "--runs-dir", "runs", cwd=project.folder)
    assert "Halve stays: policy ./mine.py:Plan could never act" in wrong.err
    assert "did you mean 'Plain'?" in wrong.err
    swapped = agenttune("swap", "latest", "--policy", "./mine.py:Plain", "--runs-dir", "runs", cwd=project.folder)
    assert "Plain attached to run" in swapped.out, swapped.err
    launched.stop_training()
    result = launched.end()
    assert result.code == 0, result.err
    assert (project.folder / "told.txt").read_text(encoding="utf-8") == f"Run {launched.info().run_id} stopped"
    assert '"ok":true' in launched.events("notified")[0]
