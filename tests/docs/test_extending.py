"""The page on extending tells what is true: each of its examples is checked, tested by its suite, and at work."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch

from agenttune.config import load_config
from agenttune.launch import make_plan
from agenttune.policy.base import PolicyContext
from agenttune.policy.load import load_policy
from agenttune.policy.plugins import find_detector
from agenttune.policy.wrappers.wrapper import walk
from agenttune.protocol.events import Evaluated
from agenttune.store.run_log import RunLog, list_runs
from agenttune.testing.conformance import ApproverTestCase, ChannelTestCase, DetectorTestCase, PolicyTestCase
from agenttune.trainer import Options
from docs.generate import DOCS
from tests.cli.conftest import environment
from tests.trainer.conftest import Points, TinyModel, submit
from tests.warm import run_ranks

BLOCK = re.compile(r"^```(?:python|yaml|toml)\n# ([\w./]+)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TEXT = (DOCS / "extending.md").read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The page's files; of `config.yaml` the last one."""
    (tmp_path / "policies").mkdir()
    (tmp_path / "train.py").write_text("", encoding="utf-8")
    for name, text in BLOCK.findall(TEXT):
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(folder: Path, kind: str, reference: str) -> Callable[..., object]:
    from agenttune.config.plugins import PluginUse
    from agenttune.launch.plugin_trials import find_plugin

    found = find_plugin(PluginUse(kind, reference, (folder,)))  # type: ignore[arg-type]
    return found.cls


@pytest.mark.quick("0")
@pytest.mark.parametrize("number", range(3))
def test_each_config_file_is_fine(folder: Path, number: int) -> None:
    configs = [text for name, text in BLOCK.findall(TEXT) if name == "config.yaml"]
    (folder / "config.yaml").write_text(configs[number], encoding="utf-8")
    plan = make_plan(folder / "config.yaml")
    assert plan.broken_plugins == []
    assert len(configs) == 3


def test_the_policy_file_wraps_the_policy_with_its_parameter(folder: Path) -> None:
    policy = load_policy("mine", PolicyContext(folder, environ={}))
    assert policy.name == "mine"
    [factor] = [part.factor for part in walk(policy) if hasattr(part, "factor")]
    assert factor == 0.3


class TestPolicy(PolicyTestCase):
    @pytest.fixture
    def make_policy(self, folder: Path) -> Callable[[], object]:
        return made(folder, "policy", "./halve.py:Halve")


class TestDetector(DetectorTestCase):
    finds_in = ()

    @pytest.fixture
    def make_detector(self, folder: Path) -> Callable[[], object]:
        return made(folder, "detector", "./rough.py:RoughGradients")


class TestApprover(ApproverTestCase):
    @pytest.fixture
    def make_approver(self, folder: Path) -> Callable[[], object]:
        return made(folder, "approver", "./careful.py:Careful")


class TestChannel(ChannelTestCase):
    @pytest.fixture
    def channel(self, folder: Path) -> object:
        return made(folder, "channel", "./to_file.py:ToFile")(str(folder / "told.txt"))


def test_the_adapter_trains(folder: Path, tmp_path: Path) -> None:
    module: dict[str, object] = {}
    exec((folder / "own_loop.py").read_text(encoding="utf-8"), module)
    model = TinyModel()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = list(torch.utils.data.DataLoader(Points(16), batch_size=4))
    train = module["train"]
    assert callable(train)

    def drawn() -> Iterator[object]:
        for number, batch in enumerate(batches):
            if number == 1:
                [live] = list_runs(tmp_path / "runs")
                with closing(RunLog.open(Path(live.path))) as log:
                    submit(log, {"kind": "do_evaluate"})
            yield batch

    train(model, optimizer, drawn(), options=Options(runs_dir=tmp_path / "runs", server=False))
    [info] = list_runs(tmp_path / "runs")
    assert (info.status, info.step) == ("finished", 4)
    with closing(RunLog.open(Path(info.path))) as log:
        [record] = log.commands()
        [evaluated] = log.events(kinds=["evaluated"])
    assert record.ack is not None
    assert record.ack.outcome == "applied", record.ack.message
    assert isinstance(evaluated.body, Evaluated)
    assert evaluated.body.metrics == {"eval_loss": 1.0}


def test_the_suite_of_the_page_runs_as_it_stands(folder: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_halve.py"]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_detector_is_what_its_rules_call_it(folder: Path) -> None:
    from agenttune.config.plugins import PluginUse

    assert find_detector(PluginUse("detector", "./rough.py:RoughGradients", (folder,))).cls.name == "rough_gradients"
    assert "found.rough_gradients" in TEXT
    assert load_config(folder / "config.yaml").notify.channels


CLIPPED = """
    import torch
    from agenttune.trainer import Options
    from clip_weights import train
    from tests.trainer.conftest import Points, TinyModel
    from tests.trainer.rank_loop import RANK, begin, finish, newest, put

    class Apart(TinyModel):
        def parameters(self, recurse=True):  # what rank 1 alone finds out, of weights that are the same
            found = list(super().parameters(recurse))
            return iter([*found, torch.nn.Parameter(torch.tensor([float("nan")]))] if self.is_ill else found)

        is_ill = False

    folder = begin()
    torch.manual_seed(0)
    model = Apart()
    ddp = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.0)

    def drawn():
        batches = list(torch.utils.data.DataLoader(Points(48), batch_size=4))
        for number, batch in enumerate(batches):
            model.is_ill = RANK == 1 and number < 6
            if RANK == 0 and number in (1, 7):
                put(folder, {"kind": "clip_weights", "percent": 50}, f"at-{number}")
            yield batch

    largest = lambda: max(float(p.detach().abs().max()) for p in TinyModel.parameters(model))
    before = largest()
    train(ddp, optimizer, drawn(), options=Options(runs_dir=folder / "runs", server=False))
    acks = {r.command_id: (r.ack.outcome, r.ack.message) for r in newest(folder).commands()} if RANK == 0 else {}
    finish(folder, {"before": before, "after": largest(), "acks": acks})
"""


def test_the_command_is_on_all_ranks_or_on_none(folder: Path) -> None:
    script = folder / "run.py"
    script.write_text(textwrap.dedent(CLIPPED), encoding="utf-8")
    for ended in run_ranks(script, str(folder), folder=folder):
        assert ended.code == 0, ended.err[-3000:]
    told = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert told[0]["after"] == told[1]["after"], "both ranks alike"
    assert told[0]["after"] == pytest.approx(told[0]["before"] / 2), "clipped once"
    refused, applied = (told[0]["acks"][name] for name in ("at-1", "at-7"))
    assert refused[0] == "failed"
    assert "rank 1" in refused[1]
    assert "a weight is not finite" in refused[1]
    assert applied[0] == "applied", applied
