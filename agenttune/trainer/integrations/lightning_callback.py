"""`LightningCallback`: a run of Lightning's Trainer, recorded and steered."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback

from agenttune.trainer.integrations.lightning_adapter import LightningAdapter, as_evaluation
from agenttune.trainer.integrations.logged_metrics import taken
from agenttune.trainer.integrations.loop_capabilities import Offers
from agenttune.trainer.integrations.loop_run import LoopRun, never_fatal
from agenttune.trainer.options import Options
from agenttune.trainer.session import Session


def _logged(trainer: Any, on_step: bool) -> dict[str, Any]:
    """What a module has logged in training, each once: asked for both, Lightning adds `x_step` and `x_epoch` to `x`."""
    results = trainer._results
    found: dict[str, Any] = results.metrics(on_step)["callback"] if results is not None else {}
    found = {name: value for name, value in found.items() if not isinstance(value, torch.Tensor) or value.numel() == 1}
    suffix = "_step" if on_step else "_epoch"
    return {name: value for name, value in found.items() if name.removesuffix(suffix) not in set(found) - {name}}


class LightningCallback(Offers, Callback):  # type: ignore[misc]
    """Makes a Lightning run observable and steerable: `Trainer(callbacks=[agenttune.LightningCallback()])`.

    With several optimizers the first is steered. Metrics that a validation logs as `val_loss` are recorded as
    `eval_loss`, as for all loops.

    Args:
        name: The run's id is this name with the time of its start.
        options: Where to record, and whether to start a control server.
    """

    def __init__(self, name: str | None = None, options: Options | None = None) -> None:
        super().__init__()
        self.options = options or Options()
        if name is not None:
            self.options = dataclasses.replace(self.options, run_name=name)
        self.run: LoopRun | None = None
        self._remove_hooks: Callable[[], None] | None = None

    def _live_session(self) -> Session | None:
        return self.run.session if self.run is not None else None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        adapter = LightningAdapter(trainer, trainer.optimizers[0])
        self.run = run = LoopRun(adapter, self.options, self.registry)
        self._remove_hooks = run.follow_updates(adapter.optimizer())
        run.begin({"max_epochs": trainer.max_epochs, "optimizers": len(trainer.optimizers)})

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self.run is not None:
            self.run.between(has_begun_step=True)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        run = self.run
        if run is None:
            return
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if isinstance(loss, torch.Tensor) and loss.numel() == 1:
            run.meter.losses.append(loss.detach().reshape(()))
        run.meter.add_batch(batch)
        if trainer.global_step != run.adapter.step:
            run.adapter.step = trainer.global_step
            with never_fatal():
                run.record_step(taken(_logged(trainer, on_step=True)))
            run.boundary()

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if self.run is not None:
            with never_fatal():
                self.run.log_row(_logged(trainer, on_step=False))

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        if self.run is not None and self.run.session is not None and not trainer.sanity_checking:
            self.run.session.evaluation_follows()

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if self.run is None or trainer.sanity_checking:
            return
        found = trainer.fit_loop.epoch_loop.val_loop._results.metrics(False)["callback"]
        with never_fatal():
            self.run.log_evaluation(as_evaluation(found))

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        if self.run is not None:
            self._end(lambda run: run.close_after(exception))

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        self._end(lambda run: run.close_normally())

    def _end(self, close: Callable[[LoopRun], None]) -> None:
        run, self.run = self.run, None
        if self._remove_hooks is not None:
            self._remove_hooks()
            self._remove_hooks = None
        if run is not None:
            close(run)
