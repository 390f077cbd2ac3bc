"""One run of a loop that calls us: its log, its session, its steps and its end."""

from __future__ import annotations

import atexit
import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.optim import Optimizer

from agenttune.errors import RanksApart
from agenttune.protocol.run_info import RunStatus
from agenttune.store.run_log import RunLog
from agenttune.trainer.checkpoints.branches import MAIN
from agenttune.trainer.distributed.error_files import leave_error, reason_of
from agenttune.trainer.distributed.joining import join_ranks
from agenttune.trainer.integrations.logged_metrics import Number, evaluation_row
from agenttune.trainer.integrations.loop_adapter import LoopAdapter
from agenttune.trainer.knobs import KnobRegistry
from agenttune.trainer.lr.optimizers import inner_optimizer
from agenttune.trainer.options import Options, open_log
from agenttune.trainer.recording.background_writer import RawRow, StepMeter
from agenttune.trainer.session import Session

logger = logging.getLogger("agenttune")


class TrainingStopped(SystemExit):
    """Raised between two steps to leave a loop that was told to stop and went on.

    A control-flow signal, no error: `except Exception` lets it pass, `finally` blocks run, and a script that does not
    catch it ends quietly with exit status 0.
    """


class LoopRun:
    """Records and steers one run; `begin`, then for each step `before_update` and `end_step`, then one of `close*`.

    Args:
        adapter: The loop.
        options: Where to record, and whether to start a control server.
        registry: What the user offers for live change.
    """

    def __init__(
        self, adapter: LoopAdapter, options: Options | None = None, registry: KnobRegistry | None = None
    ) -> None:
        self.adapter = adapter
        adapter.report = self.log_evaluation
        self.options = options or Options()
        self.registry = registry or KnobRegistry()
        self.meter = StepMeter()
        self.session: Session | None = None
        self._log: RunLog | None = None

    @property
    def run_id(self) -> str | None:
        """The run's id, the same on all ranks; None before it begins."""
        return self.session.run_id if self.session is not None else None

    # -- the run's life ---------------------------------------------------------------------------------------

    def begin(self, details: Mapping[str, Any]) -> None:
        """Open the log, and apply what was asked for before the first step.

        Raises:
            PortInUse: The server's port is taken.
            StoreFault: The log cannot be written.
        """
        self._log = open_log(self.options)
        self.session = Session(self._log, self.adapter, self.registry, join_ranks(), consult=self.options.consult)
        atexit.register(self._close_at_exit)
        with never_fatal():
            model = self.adapter.known_model()
            known = details_of(model, self.adapter.optimizer(), self.adapter.scheduler())
            self.session.begin(self.adapter.step, known | dict(details))
        self.meter.skip()

    def close(self, status: RunStatus, reason: str = "") -> None:
        """Record how the run ended; once."""
        session, self.session = self.session, None
        if session is None:
            return
        atexit.unregister(self._close_at_exit)
        session.end(status, reason)

    def close_after(self, error: BaseException) -> None:
        """Record the exception that ended training: its type and message, nothing else."""
        interrupted = isinstance(error, (KeyboardInterrupt, SystemExit))
        leave_error(error)
        reason = self.session.reason(error) if self.session is not None else ""
        self.close("interrupted" if interrupted else "failed", reason or reason_of(error))

    def close_normally(self, reason: str = "") -> None:
        """Record that training came to its end, or was stopped by command."""
        stop_reason = self.session.run_state.stop_reason if self.session is not None else None
        self.close("stopped" if stop_reason else "finished", stop_reason or reason)

    def _close_at_exit(self) -> None:
        error = getattr(sys, "last_value", None)
        if isinstance(error, BaseException):
            self.close_after(error)
        elif self.adapter.ends_with_process:
            self.close_normally("the process ended")
        else:
            self.close("interrupted", "the process ended while training")

    # -- steps ------------------------------------------------------------------------------------------------

    def follow_updates(self, optimizer: Optimizer) -> Callable[[], None]:
        """Follow an optimizer's updates; returns what ends that."""
        before = optimizer.register_step_pre_hook(lambda *_: self.before_update())
        after = optimizer.register_step_post_hook(lambda *_: self._updated())

        def remove() -> None:
            before.remove()
            after.remove()

        return remove

    def before_update(self) -> None:
        """Just before the optimizer's update."""
        if self.session is not None:
            try:  # not `never_fatal`: at every step, a context manager costs more than what it guards
                self.session.before_update(self.adapter.optimizer(), self.adapter.scheduler())
            except Exception:
                report_own_failure()

    def _updated(self) -> None:
        self.adapter.updates += 1

    def record_step(self, values: Mapping[str, float | torch.Tensor]) -> None:
        """Leave a row of the step that has just been completed."""
        if self.session is not None:
            self.meter.branch = self.session.branch
            self.meter.add_values(values)
            rates = self.session.learning_rates
            self.session.add_step(self.meter.finish(self.adapter.step, rates.lr, rates.base_lr, rates.others))

    def log_row(self, row: Mapping[str, Any]) -> None:
        """Record a row of the loop's own log, such as an epoch's means."""
        if self.session is not None and any(value is not None for value in row.values()):
            self.session.logged(RawRow(self.adapter.step, self.session.branch, time.time(), dict(row)))

    def boundary(self) -> None:
        """Between two steps: confirm, apply what was asked for, stay while paused."""
        if self.session is None:
            return
        try:
            self.session.boundary(self.adapter.step)
        except Exception:
            report_own_failure()
        self.adapter.end_boundary()
        self.meter.skip()

    def between(self, has_begun_step: bool = False) -> None:
        """Where the loop is done with a step, its evaluation too: wait for the agent, if that is due.

        Args:
            has_begun_step: The loop has begun the next step, as far as stopping goes.
        """
        if self.session is None or not (self.session.waits_for_decision or self.session.keeps_state):
            return
        self.adapter.has_begun_step = has_begun_step
        try:
            self.session.between()
        except Exception:
            report_own_failure()
        self.adapter.has_begun_step = False
        self.meter.skip()

    def keep_states(self) -> None:
        """After an evaluation of the loop's own: keep the state that it was made of, unless a step is under way."""
        if self.session is not None and self.session.keeps_state and self.adapter.update_was_skipped():
            with never_fatal():
                self.session.keep_states()

    def log_evaluation(self, metrics: Mapping[str, Number]) -> dict[str, float]:
        """Record the metrics of an evaluation; returns them as recorded.

        Raises:
            UserError: They are not numbers by name.
        """
        branch = self.session.branch if self.session is not None else MAIN
        row = evaluation_row(self.adapter.step, metrics, branch)
        if self.session is not None:
            self.session.evaluated(row)
        self.meter.skip()
        return row.values


def details_of(model: torch.nn.Module | None, optimizer: Any, scheduler: object) -> dict[str, Any]:
    """What a run's first event says of the training."""
    inner = type(inner_optimizer(optimizer))
    known: dict[str, Any] = {
        "optimizer": inner.__name__,
        "optimizer_type": f"{inner.__module__}.{inner.__qualname__}",
        "schedule": type(scheduler).__name__,
    }
    if model is not None:
        known["model"] = type(model).__name__
        known["parameters"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return known


@contextlib.contextmanager
def never_fatal() -> Iterator[None]:
    """A defect of ours is reported, and the user's training goes on."""
    try:
        yield
    except Exception:
        report_own_failure()


def report_own_failure() -> None:
    """Report the error that is being handled; one that all ranks have to end for goes on its way.

    Raises:
        RanksApart: It was that.
    """
    if isinstance(sys.exc_info()[1], RanksApart):
        raise  # noqa: PLE0704 - it is being handled by the caller
    logger.exception("agenttune failed at this step; training goes on")
