"""What every trainer adapter has to hold: subclass the suite, give a training as its fixture, get the tests.

class TestMine(AdapterTestCase):
    @pytest.fixture
    def train(self):
        return train_with_mine
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from agenttune.protocol.commands import COMMAND_KINDS
from agenttune.protocol.proposals import Ack, Author, Proposal, Verdict
from agenttune.store.run_log import RunLog, list_runs
from agenttune.trainer.options import Options

STEPS = 12
"""Steps that a training of the suite takes."""
Train = Callable[[Options | None, Callable[[int], None]], Sequence[float]]
"""Trains for `STEPS` steps, with agenttune where there are options, from the same random state each time; calls the
function with the number of each step just before that step is reported; returns the losses of all training passes."""


class AdapterTestCase:
    """A loop trains as without agenttune, and a command does what its ack says.

    Attributes:
        settable: A command that this loop can apply, given at step 4.
        latency_steps: Most steps between a command's arrival and the one that it is applied at: 0, or 1 for a loop of
            several processes, where a step's start tells whether they meet at its end.
    """

    settable: dict[str, Any] = {"kind": "update_optimizer", "lr": 5e-4}  # noqa: RUF012

    latency_steps = 0

    @pytest.fixture
    def train(self) -> Train:
        raise NotImplementedError("give the fixture train")

    def test_with_no_command_losses_are_those_of_the_loop_alone(self, train: Train, tmp_path: Path) -> None:
        alone = list(train(None, lambda step: None))
        assert len(alone) == STEPS
        assert list(train(_options(tmp_path), lambda step: None)) == alone
        with _newest(tmp_path) as log:
            assert (log.info().status, log.info().step) == ("finished", STEPS)

    def test_a_command_is_applied_and_read_back(self, train: Train, tmp_path: Path) -> None:
        train(_options(tmp_path), _asking(tmp_path, {4: self.settable}))
        ack = _ack(tmp_path, 4)
        assert ack.outcome == "applied", ack.message
        assert 4 <= ack.step <= 4 + self.latency_steps
        [change] = ack.changes
        assert change.requested == change.effective != change.previous

    def test_a_stop_ends_the_run_there(self, train: Train, tmp_path: Path) -> None:
        losses = train(_options(tmp_path), _asking(tmp_path, {5: {"kind": "stop_training"}}))
        assert 5 <= len(losses) <= 5 + self.latency_steps
        with _newest(tmp_path) as log:
            assert (log.info().status, log.info().step) == ("stopped", len(losses))

    def test_what_it_cannot_do_is_refused_with_a_reason_and_training_goes_on(
        self, train: Train, tmp_path: Path
    ) -> None:
        train(_options(tmp_path), lambda step: None)
        with _newest(tmp_path) as log:
            able = log.info().capabilities
        assert set(able) <= set(COMMAND_KINDS)
        unable = {"do_evaluate", "load_checkpoint"} - set(able)
        more = {"do_evaluate": {}, "load_checkpoint": {"checkpoint_id": "main-1-abc"}}
        for kind in sorted(unable):
            folder = tmp_path / kind
            losses = train(_options(folder), _asking(folder, {3: {"kind": kind, **more[kind]}}))
            assert _ack(folder, 3).outcome == "failed"
            assert _ack(folder, 3).message
            assert len(losses) == STEPS


def _options(folder: Path) -> Options:
    return Options(runs_dir=folder / "runs", server=False)


@contextlib.contextmanager
def _newest(folder: Path) -> Iterator[RunLog]:
    with contextlib.closing(RunLog.open(Path(list_runs(folder / "runs")[0].path))) as log:
        yield log


def _asking(folder: Path, commands: dict[int, dict[str, Any]]) -> Callable[[int], None]:
    """Puts commands into the log at steps, over a connection of its own as the control server does."""

    def ask(step: int) -> None:
        if step in commands:
            author = Author(principal="operator", name="suite")
            proposal = Proposal.model_validate(
                {"command": commands[step], "author": author, "command_id": f"at-{step}"}
            )
            with _newest(folder) as log:
                log.submit(proposal, Verdict(decision="approved", decided_by="suite"))

    return ask


def _ack(folder: Path, step: int) -> Ack:
    with _newest(folder) as log:
        ack = log.command(f"at-{step}").ack
    assert ack is not None, "the command was never answered"
    return ack
