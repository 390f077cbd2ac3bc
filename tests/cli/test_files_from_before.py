"""What earlier versions wrote is read for ever: their logs, config files and policies, and the imports they documented.

`tests/data/before/` holds, by the day of the version that wrote them, the logs of two real runs (commands of every
kind by hand; a policy with approvals), that version's own account of each log, its config files and its policies.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import agenttune as package
from agenttune.config import load_config
from agenttune.control.local import LocalControl
from agenttune.policy.load import open_policy
from agenttune.protocol.reads import HistoryQuery
from agenttune.store.run_log import RunLog
from tests.cli.conftest import agenttune

BEFORE = Path(__file__).resolve().parents[1] / "data" / "before"
VERSIONS = sorted(path.name for path in BEFORE.iterdir())
LOGS = sorted(path.relative_to(BEFORE).as_posix() for path in BEFORE.glob("*/*.db.gz"))
POLICIES = sorted(path.relative_to(BEFORE).as_posix() for path in BEFORE.glob("*/policies/*.yaml"))


def account_of(log: RunLog) -> dict[str, Any]:
    """The facts of a log, as the version that wrote it told them.

    Without the learning rate in force: the first version told the one of the last command, which was not true.
    """
    info, events = log.info(), log.events(limit=100_000)
    return {
        "run_id": info.run_id,
        "name": info.name,
        "status": info.status,
        "step": info.step,
        "events": len(events),
        "kinds": dict(sorted(Counter(event.body.kind for event in events).items())),
        "commands": [
            [r.command.kind, r.state.value, r.verdict.decision if r.verdict else "", r.ack.outcome if r.ack else ""]
            for r in log.commands()
        ],
        "knobs": {knob.name: knob.effective for knob in info.knobs if knob.name != "lr"},
        "branches": [event.body.name for event in events if event.body.kind == "branch_started"],
        "points": len(log.points(limit=100_000)),
    }


def unpacked(name: str, folder: Path) -> tuple[Path, dict[str, Any]]:
    """The run's folder within `folder`/runs, and the account of it."""
    account: dict[str, Any] = json.loads((BEFORE / name.replace(".db.gz", ".json")).read_text(encoding="utf-8"))
    home = folder / "runs" / account["run_id"]
    home.mkdir(parents=True)
    (home / "log.db").write_bytes(gzip.decompress((BEFORE / name).read_bytes()))
    return home, account


@pytest.mark.parametrize("name", LOGS)
def test_a_log_tells_what_it_told_the_version_that_wrote_it(name: str, tmp_path: Path) -> None:
    home, account = unpacked(name, tmp_path)
    for opened in (RunLog.open_to_read(home), RunLog.open(home)):
        with closing(opened) as log:
            assert account_of(log) == account


@pytest.mark.parametrize("name", LOGS)
def test_every_view_of_an_old_run_can_be_had(name: str, tmp_path: Path) -> None:
    home, account = unpacked(name, tmp_path)
    applied = [kind for kind, _, _, outcome in account["commands"] if outcome == "applied" and kind != "add_note"]
    for suffix in ("md", "html", "jsonl"):
        done = agenttune("report", home.name, "-o", f"report.{suffix}", cwd=tmp_path)
        assert done.code == 0, done.err
        said = (tmp_path / f"report.{suffix}").read_text(encoding="utf-8")
        assert account["run_id"] in said
        assert [kind for kind in applied if kind not in said and kind.replace("_", r"\_") not in said] == []
    assert len((tmp_path / "report.jsonl").read_text(encoding="utf-8").splitlines()) == account["events"] + 1
    for command in (["report"], ["runs"], ["show", home.name, "metrics"], ["report", "--json"]):
        done = agenttune(*command, cwd=tmp_path)
        assert done.code == 0, done.err


@pytest.mark.parametrize("name", LOGS)
def test_an_old_run_can_be_replayed_distilled_and_observed(name: str, tmp_path: Path) -> None:
    home, account = unpacked(name, tmp_path)
    control = LocalControl(tmp_path / "runs")
    assert control.observe(home.name).step == account["step"]
    tried = control.read(home.name, HistoryQuery()).history
    assert [one.kind for one in tried] == [kind for kind, *_ in account["commands"]]
    replayed = agenttune("replay", home.name, "--policy", "guardian", "--json", cwd=tmp_path)
    assert replayed.code == 0, replayed.err
    distilled = agenttune("distill", home.name, "-o", "plan.yaml", cwd=tmp_path)
    assert distilled.code == 0 or "nothing" in distilled.err, distilled.err


@pytest.mark.parametrize("version", VERSIONS)
def test_config_files_of_before_say_the_same(version: str, tmp_path: Path) -> None:
    for path in sorted((BEFORE / version).glob("*config.yaml")):
        text = path.read_text(encoding="utf-8")
        (tmp_path / "examples").mkdir(exist_ok=True)
        (tmp_path / "examples" / "char_gpt.py").write_text("import agenttune\n", encoding="utf-8")
        (tmp_path / path.name).write_text(text, encoding="utf-8")
        config = load_config(tmp_path / path.name)
        assert config.run.script == "examples/char_gpt.py"
        assert (config.gate.bounds["lr"].minimum, config.gate.bounds["lr"].maximum) == (1e-8, 10.0)
        checked = agenttune("check", path.name, cwd=tmp_path)
        assert checked.code == 0, checked.err


@pytest.mark.parametrize("path", POLICIES)
def test_policies_of_before_load(path: str) -> None:
    assert open_policy(str(BEFORE / path)).policy is not None


NAMES = [
    "InteractiveCallback",
    "LightningCallback",
    "Mixture",
    "TrainingStopped",
    "autopatch",
    "make_interactive",
    "make_interactive_dataset",
    "session",
]
"""What README and examples imported from `agenttune` before the rooms were moved."""


@pytest.mark.parametrize("name", NAMES)
def test_the_public_imports_of_before_are_there(name: str) -> None:
    assert getattr(package, name) is not None


def test_so_are_the_public_fakes() -> None:
    from agenttune.testing import ScriptedEndpoint, calls, fails, says

    assert all((ScriptedEndpoint, calls, fails, says))
