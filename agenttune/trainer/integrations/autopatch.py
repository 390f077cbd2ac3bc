"""`agenttune.autopatch`: a training loop that cannot be edited, recorded and steered through hooks of its optimizer."""

from __future__ import annotations

import dataclasses
import gc
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from agenttune.errors import UserError
from agenttune.trainer.integrations.loop_adapter import (
    DATASET_KINDS,
    LAYER_KINDS,
    STATE_KINDS,
    Evaluate,
    LoopAdapter,
    undisturbed,
)
from agenttune.trainer.integrations.loop_capabilities import Offers
from agenttune.trainer.integrations.loop_run import LoopRun, TrainingStopped
from agenttune.trainer.lr.planned_lr import make_plannable
from agenttune.trainer.options import Options
from agenttune.trainer.session import Session

logger = logging.getLogger("agenttune")

NO_MODEL = "agenttune.autopatch was given no model="
LOOPS_OWN = {
    "update_training": "clipping, accumulation and the number of steps are the patched loop's own",
    **dict.fromkeys(DATASET_KINDS, "the patched loop draws its batches itself"),
    "probe": "the data would not go back, as the patched loop draws its batches itself",
}


def autopatch(
    optimizer: Optimizer,
    model: nn.Module | None = None,
    scheduler: object | None = None,
    *,
    evaluate: Evaluate | None = None,
    can_stop: bool = False,
    name: str | None = None,
    options: Options | None = None,
) -> PatchedLoop:
    """Record and steer a loop that cannot be edited, by hooks on its optimizer; call it before the loop starts.

    Each `optimizer.step()` is a step. Commands are applied between two steps: before the next forward pass if the
    model is given, else just before the next update. The run ends with the process, or with `close()`.

    Args:
        optimizer: The optimizer that the loop steps.
        model: The model in training. It makes checkpoints, layers and losses known: a loss is read off the model's
            output, where that is a scalar, or has a scalar `loss`.
        scheduler: The learning-rate schedule. By default it is looked for among all objects at the first step.
        evaluate: Returns metrics by name, for `do_evaluate`; needs the model.
        can_stop: Let `stop_training` raise `TrainingStopped`, a `SystemExit`, out of the loop. Otherwise a stop is
            refused, as a hook has no gentler way.
        name: The run's id is this name with the time of its start.
        options: Where to record, and whether to start a control server.

    Raises:
        UserError: An argument is of the wrong kind.
        PortInUse: The server's port is taken.
        StoreFault: The log cannot be written.
    """
    if not isinstance(optimizer, Optimizer):
        raise UserError(f"optimizer is a {type(optimizer).__name__}, not a torch.optim.Optimizer", field="optimizer")
    if model is not None and not isinstance(model, nn.Module):
        raise UserError(f"model is a {type(model).__name__}, not a torch.nn.Module", field="model")
    if evaluate is not None and model is None:
        raise UserError("evaluate= needs model=, to put its state back afterwards", field="model")
    if name is not None:
        options = dataclasses.replace(options or Options(), run_name=name)
    patched = PatchedLoop(PatchedAdapter(optimizer, model, scheduler, evaluate, can_stop), options)
    patched.open()
    return patched


class PatchedAdapter(LoopAdapter):
    """A loop of which little is known but its optimizer."""

    ends_with_process = True

    def __init__(
        self,
        optimizer: Optimizer,
        model: nn.Module | None,
        scheduler: object | None,
        evaluate: Evaluate | None,
        can_stop: bool,
    ) -> None:
        lacking = dict(LOOPS_OWN)
        if model is None:
            lacking |= dict.fromkeys((*LAYER_KINDS, *STATE_KINDS), NO_MODEL)
        if evaluate is None:
            lacking["do_evaluate"] = "agenttune.autopatch was given no evaluate= (a function that returns metrics)"
        if not can_stop:
            lacking["stop_training"] = (
                "a patched loop can only be left by an exception: agenttune.autopatch(can_stop=True)"
            )
        super().__init__(f"PyTorch {torch.__version__} patched loop", optimizer, lacking, model, scheduler)
        self._evaluate = evaluate

    def look_for_scheduler(self) -> None:
        """Find the optimizer's schedule, if it was not named and there is just one."""
        if self._scheduler is not None or not has_scheduler(self._optimizer):
            return
        found = find_schedulers(self._optimizer)
        if len(found) == 1:
            self._scheduler = found[0]
            make_plannable(self._scheduler, self._optimizer)
        else:
            logger.warning(
                "agenttune: the optimizer has a schedule, and %d were found; a changed rate may not last. Name it with "
                "agenttune.autopatch(scheduler=...)",
                len(found),
            )

    def settings(self) -> list[Any]:
        return []

    def evaluate(self) -> dict[str, float]:
        assert self._evaluate is not None  # otherwise not among the capabilities
        with undisturbed(self.model()):
            return self.report(self._evaluate())


class PatchedLoop(Offers):
    """A patched loop's run; made by `agenttune.autopatch`.

    Attributes:
        run: The run behind it.
    """

    def __init__(self, adapter: PatchedAdapter, options: Options | None = None) -> None:
        super().__init__()
        self._adapter = adapter
        self.run = LoopRun(adapter, options, self.registry)
        self._losses: list[torch.Tensor] = []
        self._at_boundary = False
        self._pending = False
        self._looked = False
        self._removers: list[Callable[[], None]] = []

    def _live_session(self) -> Session | None:
        return self.run.session

    @property
    def run_id(self) -> str | None:
        """The run's id."""
        return self.run.run_id

    def open(self) -> None:
        """Open the log, and set the hooks."""
        optimizer, model = self._adapter.optimizer(), self._adapter.known_model()
        self.run.begin({"patched": True})
        before = optimizer.register_step_pre_hook(lambda *_: self._before_update())
        after = optimizer.register_step_post_hook(lambda *_: self._after_update())
        self._removers += [before.remove, after.remove]
        if model is not None:
            first = model.register_forward_pre_hook(lambda *_: self._before_forward())
            last = model.register_forward_hook(lambda _module, _inputs, output: self._take_loss(output))
            self._removers += [first.remove, last.remove]

    def close(self) -> None:
        """End the run here, and take the hooks away; without it, the run ends with the process."""
        self._unhook()
        self.run.close_normally()

    def _unhook(self) -> None:
        for remove in self._removers:
            remove()
        self._removers.clear()

    # -- hooks ------------------------------------------------------------------------------------------------

    def _before_forward(self) -> None:
        """The first training pass after an update is where one step has ended and the next begins."""
        model = self._adapter.model()
        if self._pending and not self._at_boundary and model.training and torch.is_grad_enabled():
            self._boundary()

    def _before_update(self) -> None:
        if not self._looked:
            self._looked = True
            self._adapter.look_for_scheduler()
        if self._pending:
            self._boundary()
        self.run.before_update()

    def _after_update(self) -> None:
        adapter = self._adapter
        adapter.updates += 1
        adapter.step += 1
        for loss in self._losses:
            self.run.meter.losses.append(loss / len(self._losses))
        self._losses = []
        self.run.record_step({})
        self._pending = True

    def _boundary(self) -> None:
        self._pending, self._at_boundary = False, True
        try:
            self.run.boundary()
            self.run.between()
        finally:
            self._at_boundary = False
        if self._adapter.wants_stop:
            self.close()
            raise TrainingStopped

    def _take_loss(self, output: Any) -> None:
        """The loss of a micro-batch, if the model's output tells it."""
        if self._at_boundary or not self._adapter.model().training or not torch.is_grad_enabled():
            return
        loss = output.get("loss") if isinstance(output, dict) else getattr(output, "loss", output)
        if isinstance(loss, torch.Tensor) and loss.numel() == 1:
            self._losses.append(loss.detach().reshape(()))


def has_scheduler(optimizer: Optimizer) -> bool:
    """Whether a schedule was attached: torch's schedules wrap the optimizer's `step` when they are made."""
    return hasattr(optimizer.step, "_wrapped_by_lr_sched") or "initial_lr" in optimizer.param_groups[0]


def find_schedulers(optimizer: Optimizer) -> list[LRScheduler]:
    """The schedules of an optimizer; those inside others (SequentialLR, ChainedScheduler) are left out.

    Nothing leads from an optimizer to its schedules, so all objects of the process are looked through: about 0.1 s
    with torch and transformers loaded (measured).
    """
    found = [o for o in gc.get_objects() if issubclass(type(o), LRScheduler) and _optimizer_of(o) is optimizer]
    inside = {id(inner) for outer in found for inner in getattr(outer, "_schedulers", [])}
    return [scheduler for scheduler in found if id(scheduler) not in inside]


def _optimizer_of(scheduler: LRScheduler) -> Any:
    return getattr(scheduler, "optimizer", None)
