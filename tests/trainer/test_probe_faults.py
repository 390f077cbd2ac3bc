"""What breaks while candidates are tried costs the trial: the run goes back and on to the bit, or says where it is."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset
from transformers import TrainerCallback

import agenttune
from agenttune.protocol.events import Probed
from agenttune.store.run_log import RunLog, list_runs, run_folder
from agenttune.trainer import Options
from tests.trainer.conftest import At, Bench, Points, Result, TinyModel
from tests.trainer.test_branches import Doing, Once, weights
from tests.trainer.test_probe import finite_losses, outcome, probe, rates

pytestmark = pytest.mark.trainer

BROKEN_LR = 0.5
ASKED = probe(*rates(1e-6, BROKEN_LR, 1e-7), min_gain_frac=1.0)
"""The trial that breaks has others before and behind it, and none of them is adopted."""
RUN: dict[str, Any] = {"max_steps": 40, "rows": 40, "data_seed": 3, "lr_scheduler_type": "constant"}


class Trap:
    """Raises while the rate of one candidate is in force.

    Args:
        at: From this step on; the probe is asked for at step 20.
        spared: Calls from there on that pass.
        error: What is raised.
    """

    def __init__(self, at: int = 22, spared: int = 0, error: BaseException | None = None) -> None:
        self.at, self.spared = at, spared
        self.error = error or RuntimeError("CUDA out of memory")
        self.trainer: Any = None
        self.sprung = 0

    def __call__(self) -> None:
        state, optimizer = getattr(self.trainer, "state", None), getattr(self.trainer, "optimizer", None)
        if state is None or optimizer is None or state.global_step < self.at:
            return
        if optimizer.param_groups[0]["lr"] == BROKEN_LR:
            self.sprung += 1
            if self.sprung > self.spared:
                raise self.error


class TrappedData(Dataset[Any]):
    def __init__(self, inner: Points, trap: Callable[[], None]) -> None:
        self.inner, self.trap = inner, trap

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> Any:
        self.trap()
        return self.inner[index]


class TrappedAdam(torch.optim.AdamW):
    def __init__(self, model: nn.Module, trap: Trap) -> None:
        super().__init__(model.parameters(), lr=1e-3)
        self.trap = trap

    def step(self, closure: Any = None) -> Any:
        taken = super().step(closure)
        self.trap()
        return taken


def trapped_callback(event: str, trap: Trap) -> TrainerCallback:
    def on_event(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        trap()

    made: TrainerCallback = type("Trapped", (TrainerCallback,), {event: on_event})()
    return made


def in_callback(event: str, first: bool = False) -> Callable[[Any, Trap], None]:
    def install(trainer: Any, trap: Trap) -> None:
        callbacks = trainer.callback_handler.callbacks
        callbacks.insert(0 if first else len(callbacks), trapped_callback(event, trap))

    return install


def in_data(trainer: Any, trap: Trap) -> None:
    trainer.train_dataset = TrappedData(trainer.train_dataset, trap)


def in_clipping(trainer: Any, trap: Trap) -> None:
    clip = trainer.accelerator.clip_grad_norm_

    def trapped(*args: Any, **kwargs: Any) -> Any:
        trap()
        return clip(*args, **kwargs)

    trainer.accelerator.clip_grad_norm_ = trapped


def nowhere(trainer: Any, trap: Trap) -> None:
    """The optimizer or the schedule has it already."""


def optimizer_of(trap: Trap) -> Callable[[nn.Module], Any]:
    return lambda model: (TrappedAdam(model, trap), None)


def schedule_of(trap: Trap) -> Callable[[nn.Module], Any]:
    def rate(step: int) -> float:
        trap()
        return 1.0

    def build(model: nn.Module) -> Any:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        return optimizer, LambdaLR(optimizer, rate)

    return build


Case = tuple[Callable[[Any, Trap], None], dict[str, Any]]
ACCUMULATED = {"gradient_accumulation_steps": 4}  # 10 batches an epoch: groups of 4, 4 and 2
CASES: dict[str, Case] = {
    "the first batch of the trial": (in_data, {"at": 20}),
    "a later batch": (in_data, {}),
    "a batch of the next epoch": (in_data, {"asked_at": 27, "at": 29, "spared": 10}),
    **{f"row {n + 1} of a step of 16": (in_data, {**ACCUMULATED, "spared": n}) for n in (4, 15)},
    "row 6 of the first step": (in_data, {**ACCUMULATED, "at": 20, "spared": 5}),
    "row 6 of the first step of an epoch": (in_data, {**ACCUMULATED, "at": 21, "asked_at": 21, "spared": 5}),
    "the beginning of a step": (in_callback("on_step_begin"), {}),
    "a micro-batch's end": (in_callback("on_substep_end"), ACCUMULATED),
    "before the update": (in_callback("on_pre_optimizer_step"), {}),
    "a step's end, before anybody else": (in_callback("on_step_end", first=True), {}),
    "the trial's last step": (in_callback("on_step_end"), {"at": 26}),
    "the end of the epoch that is left": (in_callback("on_epoch_end"), {}),
    "the beginning of the next one": (in_callback("on_epoch_begin"), {}),
    "clipping": (in_clipping, {}),
    "the optimizer": (nowhere, {"build": optimizer_of}),
    "the schedule": (nowhere, {"build": schedule_of}),
}


def trained(bench: Bench, case: Case, orders: list[At]) -> tuple[Result, Trap]:
    install, given = case
    how = {k: v for k, v in given.items() if k not in ("at", "spared", "asked_at", "build")}
    trap = Trap(given.get("at", 22), given.get("spared", 0))
    build = given["build"](trap) if "build" in given else None
    result = bench.trainer([], build=build, callbacks=[Once(bench.runs_dir, orders)], **{**RUN, **how})
    trap.trainer = result.trainer
    install(result.trainer, trap)
    result.trainer.train()
    return result, trap


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Case], Result]:
    """The run without a trial, once for all cases that train alike."""
    known: dict[str, Result] = {}

    def run(case: Case) -> Result:
        alike = repr({k: v for k, v in case[1].items() if k not in ("at", "spared", "asked_at")})
        if alike not in known:
            known[alike], trap = trained(Bench(tmp_path_factory.mktemp("plain")), case, [])
            assert trap.sprung == 0
        return known[alike]

    return run


@pytest.mark.quick(
    "the first batch of the trial",
    "a batch of the next epoch",
    "row 16 of a step of 16",
    "a micro-batch's end",
    "the trial's last step",
    "the end of the epoch that is left",
    "the optimizer",
    "the schedule",
)
@pytest.mark.parametrize("name", CASES)
def test_an_error_in_a_trial_costs_the_trial_and_the_run_goes_on_to_the_bit(
    bench: Bench, undisturbed: Callable[[Case], Result], name: str
) -> None:
    case = CASES[name]
    plain = undisturbed(case)
    expected = finite_losses(plain)["main"]
    asked_at = case[1].get("asked_at", 20)
    result, trap = trained(bench, case, [At(asked_at, ASKED)])
    assert trap.sprung > trap.spared
    body = outcome(result)
    current, before, broken, after = body.trials
    assert broken.value is None
    assert "RuntimeError: CUDA out of memory" in broken.problem
    assert broken.steps <= 6
    for trial in (current, before, after):
        assert (trial.problem, trial.steps) == ("", 6)
    assert (result.ack.outcome, result.ack.changes) == ("applied", [])
    assert finite_losses(result)["main"] == expected
    assert all(torch.equal(a, b) for a, b in zip(weights(result), weights(plain), strict=True))
    info = result.log().info()
    assert (info.status, info.step, info.branch) == ("finished", 40, "main")


def test_afterwards_the_same_error_ends_the_run_as_it_always_did(bench: Bench) -> None:
    steps: list[int] = []

    def bomb() -> None:
        steps.append(result.trainer.state.global_step)
        raise ValueError("the user's own")

    orders = [At(20, ASKED)]
    result = bench.trainer([], callbacks=[Once(bench.runs_dir, orders), Doing(30, bomb)], **RUN)
    with pytest.raises(ValueError, match="the user's own"):
        result.trainer.train()
    assert steps == [30]
    assert result.log().info().status_reason == "ValueError: the user's own"


def test_ctrl_c_in_a_trial_ends_the_run_and_leaves_the_model_of_the_run(bench: Bench) -> None:
    plain = bench.run([], **{**RUN, "max_steps": 20})
    shutil.rmtree(bench.path)
    trap = Trap(error=KeyboardInterrupt())
    result = bench.trainer([], callbacks=[Once(bench.runs_dir, [At(20, ASKED)])], **RUN)
    trap.trainer = result.trainer
    in_callback("on_optimizer_step")(result.trainer, trap)
    with pytest.raises(KeyboardInterrupt):
        result.trainer.train()
    # As a script finds them that saves its model after Ctrl-C.
    assert all(torch.equal(a, b) for a, b in zip(weights(result), weights(plain), strict=True))
    assert result.trainer.state.global_step == 20
    info = result.log().info()
    where = "in the middle of trial probe:1:1; model and optimizer were put back to step 20"
    assert (info.status, info.status_reason) == ("interrupted", f"KeyboardInterrupt; {where}")
    assert (info.step, info.branch) == (20, "main")
    assert (result.ack.outcome, result.ack.step) == ("failed", 20)
    assert where in result.ack.message


class Stubborn(LambdaLR):
    """A schedule of a user's that cannot go back."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        raise RuntimeError("this schedule only goes forward")


def test_an_error_of_going_back_ends_the_run_and_says_whose_the_model_is(bench: Bench) -> None:
    def build(model: nn.Module) -> Any:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        return optimizer, Stubborn(optimizer, lambda step: 1.0)

    result = bench.trainer([], build=build, callbacks=[Once(bench.runs_dir, [At(20, ASKED)])], **RUN)
    with pytest.raises(RuntimeError, match="only goes forward"):
        result.trainer.train()
    info = result.log().info()
    assert info.status == "failed"
    assert info.status_reason.startswith("RuntimeError: this schedule only goes forward; in the middle of trial")
    assert "the model in memory is the trial's, not that of step 20" in info.status_reason
    assert result.ack.outcome == "failed"
    assert "the model in memory is the trial's" in result.ack.message


# -- a loop of one's own ----------------------------------------------------------------------------------------------


def own_loop(path: Path, orders: list[At], breaks: bool, micro: int = 1) -> tuple[list[float], RunLog]:
    """Twenty steps of some batches each by hand; the losses of all that were taken, and the log."""
    model = TinyModel()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    rows = 0
    once = Once(path / "runs", orders)

    def trap() -> None:
        nonlocal rows
        if breaks and optimizer.param_groups[0]["lr"] == BROKEN_LR and s.global_step == 9:
            rows += 1
            if rows > 4 * (micro - 1):  # the last batch of the step
                raise OSError("the file is gone")

    loader: DataLoader[Any] = DataLoader(TrappedData(Points(40), trap), batch_size=4, shuffle=True)
    options = Options(runs_dir=path / "runs", server=False)
    losses: list[float] = []
    torch.manual_seed(5)
    with agenttune.session(model=model, optimizer=optimizer, max_steps=20, options=options) as s:
        for count, batch in enumerate(s.batches(loader), 1):
            loss = model(**batch)["loss"]
            loss.backward()
            if count % micro:
                continue
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss))
            once.submit(s.global_step + 1)
            s.step({"loss": loss})
    return losses, RunLog.open(run_folder(path / "runs", list_runs(path / "runs")[0].run_id))


def main_rows(log: RunLog) -> list[float]:
    return [p.values["loss"] for p in log.points(limit=1000, sources=["step"]) if p.branch == "main"]


def test_data_that_fails_in_a_trial_of_ones_own_loop_costs_the_trial(tmp_path: Path) -> None:
    expected, _ = own_loop(tmp_path / "plain", [], breaks=False)
    losses, log = own_loop(tmp_path / "probed", [At(7, ASKED)], breaks=True)
    (event,) = log.events(kinds=["probed"])
    assert isinstance(event.body, Probed)
    broken = event.body.trials[2]
    assert (broken.steps, broken.value) == (2, None)
    assert "OSError: the file is gone" in broken.problem
    assert [trial.problem for trial in event.body.trials].count("") == 3
    assert main_rows(log) == expected
    assert len(losses) == 20 + 6 + 6 + 2 + 6


def test_in_the_midst_of_a_step_of_ones_own_loop_it_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="the file is gone"):
        own_loop(tmp_path, [At(7, ASKED)], breaks=True, micro=2)
    info = RunLog.open(run_folder(tmp_path / "runs", list_runs(tmp_path / "runs")[0].run_id)).info()
    assert "put back to step 7" in info.status_reason
