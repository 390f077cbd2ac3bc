"""transformers' Trainer, steerable: what the loop calls of ours. Public methods and callbacks only, no copied loop."""

from __future__ import annotations

import atexit
import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from agenttune.protocol.events import StatusChanged
from agenttune.protocol.run_info import RunStatus
from agenttune.store.metric_table import MetricRow
from agenttune.store.run_log import RunLog
from agenttune.trainer.checkpoints.checkpoint_catalog import find_checkpoint
from agenttune.trainer.datasets.sources import SourceLosses, attach_sources
from agenttune.trainer.distributed.error_files import leave_error, reason_of
from agenttune.trainer.distributed.joining import join_ranks
from agenttune.trainer.integrations.hf_adapter import HfAdapter
from agenttune.trainer.integrations.hf_epochs import PlannedEpochs
from agenttune.trainer.integrations.hf_knobs import register_trainer_knobs
from agenttune.trainer.integrations.loop_capabilities import Offers
from agenttune.trainer.integrations.loop_run import details_of, never_fatal, report_own_failure
from agenttune.trainer.lr.planned_lr import make_plannable
from agenttune.trainer.options import Options, open_log
from agenttune.trainer.recording.background_writer import RawRow, StepMeter
from agenttune.trainer.recording.logged_rows import LoggedRows, split
from agenttune.trainer.session import Session

if TYPE_CHECKING:
    from transformers import Trainer
else:
    Trainer = object

logger = logging.getLogger("agenttune")


class InteractiveCallback(Offers, TrainerCallback):  # type: ignore[misc]
    """Makes a training run observable and steerable: `trainer.add_callback(InteractiveCallback())`.

    Without access to the trainer it can neither evaluate on demand, nor change gradient accumulation, nor go past
    the planned epochs; those commands are refused and say so. `make_interactive` has no such limits.

    Args:
        options: Where to record, and whether to start a control server.
        adapter: For `make_interactive`: the adapter that knows the trainer.
    """

    def __init__(self, options: Options | None = None, adapter: HfAdapter | None = None) -> None:
        super().__init__()
        self.options = options or Options()
        self.adapter = adapter or HfAdapter()
        self.adapter.after_restoring = self._on_restored
        self.session: Session | None = None
        self.meter: StepMeter | None = None
        self.sources: SourceLosses | None = None
        self._log: RunLog | None = None
        self._is_open = False
        self._hook: Any = None
        self._source_hook: Any = None
        self.rows = LoggedRows(self._logged, self._evaluated)

    def _live_session(self) -> Session | None:
        return self.session

    # -- opening and closing ----------------------------------------------------------------------------------

    def name_after(self, args: Any) -> None:
        """Call the run what its user calls it in `TrainingArguments.run_name`, unless the options name it."""
        self.options = self.options.named(getattr(args, "run_name", None), str(args.output_dir))

    def open(self) -> None:
        """Open the run's log, with a control server beside it; before anything is trained.

        Raises:
            PortInUse: The server's port is taken.
            StoreFault: The log cannot be written.
        """
        if self._is_open:
            return
        self._log = open_log(self.options)
        self._is_open = True

    def close(self, status: RunStatus, reason: str = "") -> None:
        """Record how the run ended; once."""
        if not self._is_open:
            return
        self._is_open = False
        atexit.unregister(self._close_at_exit)
        for hook in filter(None, (self._hook, self._source_hook)):
            hook.remove()
        self._hook = self._source_hook = None
        self.rows.flush()
        if self.session is not None:
            self.session.end(status, reason)
        elif self._log is not None:  # it ended before training began
            self._log.append(StatusChanged(status=status, reason=reason))
            self._log.close()
        self.session = self.meter = self._log = None

    def close_after(self, error: BaseException) -> None:
        """Record the exception that ended training: its type and message, nothing else."""
        interrupted = isinstance(error, (KeyboardInterrupt, SystemExit))
        leave_error(error)
        reason = self.session.reason(error) if self.session is not None else ""
        self.close("interrupted" if interrupted else "failed", reason or reason_of(error))

    def close_normally(self) -> None:
        """Record that training came to its end, or was stopped by command."""
        stop_reason = self.session.run_state.stop_reason if self.session is not None else None
        self.close("stopped" if stop_reason else "finished", stop_reason or "")

    def _close_at_exit(self) -> None:
        """A callback does not see the exception that ends training; the interpreter still has it at exit."""
        error = getattr(sys, "last_value", None)
        if isinstance(error, BaseException):
            self.close_after(error)
        else:
            self.close("interrupted", "the process ended while training")

    # -- events of the loop -----------------------------------------------------------------------------------

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.name_after(args)
        self.open()
        self.adapter.bind(args, state, control, kwargs)
        self.adapter.note_first_step()
        # Ranks that only follow have one too: the loss of a step is everybody's.
        self.meter = StepMeter(args.world_size) if self._log is not None or args.world_size > 1 else None
        if self.session is None:
            self.session = Session(self._log, self.adapter, self.registry, join_ranks(), consult=self.options.consult)
            self._follow_loss(kwargs["model"])
            if self.adapter.trainer is None:
                atexit.register(self._close_at_exit)
            with never_fatal():
                if self.adapter.trainer is not None:
                    register_trainer_knobs(self.adapter.trainer, self.registry)
                self.session.begin(state.global_step, _details(args, kwargs))
            if self.meter is not None:
                self.meter.branch = self.session.branch  # a job that was started again may go on as a new one
        else:
            # The same call of `train()` runs its loop anew with a smaller batch when it was out of memory.
            reason = f"out of memory, now with batches of {state.train_batch_size}"
            with never_fatal():
                self.rows.flush()
                self.session.begin_again(state.global_step, reason if args.auto_find_batch_size else "train() again")
            self._on_restored()
        self._skip()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        first = int(state.global_step) == self.adapter.first_step
        self.adapter.accumulation.start_epoch(args.gradient_accumulation_steps, first)
        self.adapter.feed.start_epoch()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.adapter.feed.is_seeking:  # the epoch does not end, it is left
            control.should_evaluate = control.should_save = False
        elif self.adapter.plan.end_epoch():
            control.should_training_stop = True
        if control.should_evaluate and self.session is not None:
            self.session.evaluation_follows()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Without the trainer, the first place after a step's log, evaluation and save."""
        if self.adapter.trainer is not None:  # it asks for batches before: a better place than this
            return
        self.rows.flush()
        session = self.session
        if session is None or not session.waits_for_decision:
            return
        self.adapter.follow(control, kwargs)
        self.adapter.has_begun_step = True
        with never_fatal():
            session.between()
        self.adapter.has_begun_step = False
        self._skip()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.session is not None:
            try:  # not `never_fatal`: at every step, a context manager costs more than what it guards
                self.session.before_update(kwargs["optimizer"], kwargs["lr_scheduler"])
            except Exception:
                report_own_failure()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        session, meter = self.session, self.meter
        if session is None:
            return
        if self.rows.is_holding:
            self.rows.flush()
        self.adapter.follow(control, kwargs)
        step = state.global_step
        try:
            if meter is not None:
                if self.sources is not None:
                    meter.add_values(self.sources.finish())
                rates = session.learning_rates
                session.add_step(meter.finish(step, rates.lr, rates.base_lr, rates.others))
            session.boundary(step)
            if control.should_evaluate:
                session.evaluation_follows()
            if self.adapter.trainer is None and session.waits_for_decision and _is_complete(args, state, control):
                session.between("boundary")
        except Exception:
            report_own_failure()
        if meter is not None:
            meter.began_s = time.perf_counter()

    def between(self) -> bool:
        """Between two steps, with work that had to wait for it.

        Returns:
            Whether the loop shall draw nothing more for now: training ends, or goes on elsewhere.
        """
        if self.session is None:
            return False
        self.rows.flush()
        self.adapter.settled = True
        try:
            self.session.between()
        except Exception:
            report_own_failure()
        finally:
            self.adapter.settled = False
        self._on_restored()  # a trial may have begun, or ended without a step
        control = self.adapter.trainer.control
        return bool(control.should_training_stop or control.should_epoch_stop)

    @property
    def is_trying(self) -> bool:
        """Whether the present steps are a trial's, and will be undone."""
        session = self.session
        return session is not None and not session.is_quiet and session.is_trying

    def is_trial_over(self, error: Exception) -> bool:
        """Whether an error of the training step belongs to a trial, which ends with it and is undone."""
        return self.session is not None and self.session.fail_trial(error)

    def _on_restored(self) -> None:
        """A state was restored; what is measured from here on belongs to the new branch."""
        if self.meter is not None and self.session is not None:
            self.meter.branch = self.session.branch
            self.meter.skip()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if self.session is None or logs is None:
            return
        try:  # not `never_fatal`, as this may be at every step
            self.rows.log(logs, int(state.global_step))
        except Exception:
            report_own_failure()

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        if self.session is None or metrics is None:
            return
        with never_fatal():
            self.rows.evaluate(metrics, int(state.global_step))
        self._skip()

    def _logged(self, row: Mapping[str, Any], step: int) -> None:
        session = self.session
        if session is None:
            return
        branch = session.branch if self.meter is None else self.meter.branch
        try:
            session.logged(tuple.__new__(RawRow, (step, branch, time.time(), row)))
        except Exception:
            report_own_failure()

    def _evaluated(self, row: Mapping[str, Any], step: int) -> None:
        if self.session is not None:
            values, texts = split(row)
            self.session.evaluated(self._row(step, values, "eval"), texts)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.session is None:
            return
        self.rows.flush()
        self.adapter.follow(control, kwargs)
        with never_fatal():
            folder = self.adapter.output_dir()
            self.session.checkpoint_saved(find_checkpoint(folder, state.global_step, self.session.branch))
        self._skip()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.adapter.trainer is None:
            self.close_normally()

    # -- inside -----------------------------------------------------------------------------------------------

    def _row(self, step: int, values: dict[str, float], source: str) -> MetricRow:
        branch = self.session.branch if self.session is not None else "main"
        return MetricRow(step, time.time(), values, source, branch)

    def _skip(self) -> None:
        if self.meter is not None:
            self.meter.skip()

    def measure_sources(self, loader: Any, dataset: Any) -> None:
        """Measure the loss of each source of a mixture; there is nothing to it for any other dataset."""
        self.sources = attach_sources(loader, dataset)
        if self.sources is not None and self._source_hook is None:
            model = self.adapter.trainer.model
            self._source_hook = model.register_forward_hook(self._take_source_losses)

    def _take_source_losses(self, model: torch.nn.Module, inputs: Any, output: Any) -> None:
        if self.sources is not None and self.sources.is_waiting and model.training:
            self.sources.add(model, output)

    def _follow_loss(self, model: torch.nn.Module) -> None:
        """Without the trainer, the loss of a step is read off the model's own output."""
        if self.adapter.trainer is None and self._hook is None:
            self._hook = model.register_forward_hook(self._take_loss, with_kwargs=True)

    def _take_loss(self, model: torch.nn.Module, inputs: Any, kwargs: dict[str, Any], output: Any) -> None:
        if not model.training or self.meter is None or not torch.is_grad_enabled():
            return
        loss = output.get("loss") if isinstance(output, dict) else getattr(output, "loss", None)
        if isinstance(loss, torch.Tensor) and loss.numel() == 1:
            shares = 1 if kwargs.get("num_items_in_batch") is not None else self.adapter.accumulation_steps
            self.meter.losses.append(loss.detach() / shares)
            self.meter.add_batch(kwargs)


def _is_complete(args: Any, state: Any, control: Any) -> bool:
    """Whether the loop is done with this step: it neither logs, evaluates nor saves any more, and goes on."""
    if control.should_log or control.should_evaluate or control.should_save or control.should_training_stop:
        return False
    by_epoch = "epoch" in (args.eval_strategy, args.save_strategy, args.logging_strategy)
    return not (by_epoch and float(state.epoch or 0.0).is_integer())


def _details(args: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    known = details_of(kwargs["model"], kwargs["optimizer"], kwargs["lr_scheduler"])
    known["output_dir"] = str(Path(args.output_dir).absolute())
    return known | {"world_size": args.world_size, "seed": args.seed}


def make_interactive(trainer_class: type[Any], *, host: str | None = None, port: int | None = None) -> type[Any]:
    """A subclass of a Trainer whose runs are recorded and can be steered while they train.

    Same constructor, with the keywords `agenttune: Options | None`, `host` and `port` besides. With no command issued,
    losses are bit-identical to those of `trainer_class`.

    Args:
        trainer_class: `transformers.Trainer` or a subclass of it, such as those of TRL.
        host: Address of the control server, where one has to be started; also a keyword of the constructor, as in v1.
        port: Its port; the same.

    Returns:
        The subclass, an `InteractiveTrainerMixin`; its trainers also have `register_knob`.
    """
    is_interactive = issubclass(trainer_class, InteractiveTrainerMixin)
    bases = (trainer_class,) if is_interactive else (InteractiveTrainerMixin, trainer_class)
    server = {"server_host": host, "server_port": port}
    return type(f"Interactive{trainer_class.__name__}", bases, {"__module__": __name__, **server})


class InteractiveTrainerMixin(Trainer):  # type: ignore[misc]
    """What `make_interactive` puts before a Trainer's class: the hooks that no callback gets.

    Attributes:
        interactive: The callback, which has the run's session.
        server_host: Address of the control server, unless the constructor is told another.
        server_port: Its port.
    """

    server_host: str | None = None
    server_port: int | None = None

    def __init__(
        self,
        *args: Any,
        agenttune: Options | None = None,
        host: str | None = None,
        port: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        asked = {"host": host or self.server_host, "port": self.server_port if port is None else port}
        given: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
        mro = type(self).__mro__
        loop = mro[mro.index(InteractiveTrainerMixin) + 1].__name__
        self.interactive = InteractiveCallback(replace(agenttune or Options(), **given), HfAdapter(self, loop))
        self.add_callback(self.interactive)

    @property
    def register_knob(self) -> Callable[..., None]:
        """See `InteractiveCallback.register_knob`."""
        return self.interactive.register_knob

    @property
    def register_state(self) -> Callable[..., None]:
        """See `InteractiveCallback.register_state`."""
        return self.interactive.register_state

    @property
    def allow_layer_operation(self) -> Callable[..., None]:
        """See `InteractiveCallback.allow_layer_operation`."""
        return self.interactive.allow_layer_operation

    @property
    def allow_layer_parameter(self) -> Callable[..., None]:
        """See `InteractiveCallback.allow_layer_parameter`."""
        return self.interactive.allow_layer_parameter

    # -- the loop's own methods, in the order that it calls them --------------------------------------------------

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train as the Trainer does, with the run's log open."""
        interactive = self.interactive
        interactive.adapter.note_resume(args[0] if args else kwargs.get("resume_from_checkpoint"))
        interactive.name_after(self.args)
        interactive.open()
        PlannedEpochs(interactive.adapter.plan, self.callback_handler)
        try:
            with self._noting_norms():
                output = super().train(*args, **kwargs)
        except BaseException as error:
            interactive.close_after(error)
            raise
        interactive.close_normally()
        return output

    @contextlib.contextmanager
    def _noting_norms(self) -> Iterator[None]:
        """Note the gradient norm where the loop clips it, before clipping."""
        accelerator, interactive = self.accelerator, self.interactive
        clip = accelerator.clip_grad_norm_

        def clip_and_note(*args: Any, **kwargs: Any) -> Any:
            try:
                norm = clip(*args, **kwargs)
            except Exception as error:
                if not interactive.is_trial_over(error):
                    raise
                return torch.zeros((), device=self.args.device)
            if interactive.meter is not None:
                interactive.meter.norm = norm
            return norm

        accelerator.clip_grad_norm_ = clip_and_note
        try:
            yield
        finally:
            del accelerator.clip_grad_norm_

    def set_initial_training_values(self, *args: Any, **kwargs: Any) -> Any:
        """Read the loop's plan of epochs, and leave its end open."""
        values = super().set_initial_training_values(*args, **kwargs)
        return self.interactive.adapter.plan.read(values, self.args.gradient_accumulation_steps)

    def create_scheduler(self, *args: Any, **kwargs: Any) -> Any:
        """Make the schedule one that can be given another plan."""
        scheduler = super().create_scheduler(*args, **kwargs)
        make_plannable(scheduler, kwargs.get("optimizer") or self.optimizer)
        return scheduler

    def get_train_dataloader(self) -> Any:
        """Follow the loader that the loop draws from."""
        loader = self.make_train_dataloader()
        self.interactive.adapter.feed.attach(loader)
        return loader

    def make_train_dataloader(self) -> Any:
        """A loader of the training dataset as it is now, that nobody follows."""
        loader = super().get_train_dataloader()
        self.interactive.measure_sources(loader, self.train_dataset)
        return loader

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: Any) -> Any:
        """Draw the micro-batches of a step; before that, do what had to wait until the last step was over."""
        interactive = self.interactive
        session, adapter = interactive.session, interactive.adapter
        rows = interactive.rows
        if rows.is_holding:
            rows.flush()
        if session is not None and not session.is_quiet and session.waits_between and interactive.between():
            return [], None
        if adapter.accumulation.is_changed:
            now = self.args.gradient_accumulation_steps
            fetched = adapter.accumulation.fetch(super().get_batch_samples, epoch_iterator, device, now)
        else:
            fetched = super().get_batch_samples(epoch_iterator, num_batches, device)
        feed = adapter.feed
        if not feed.is_open:
            feed.count(len(fetched[0]))
        if feed.sought is not None:
            return fetched
        return adapter.alignment.pad(fetched, self) if adapter.alignment.due else fetched

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        """Forward and backward of one micro-batch, whose loss ([], its share of the step's) is noted."""
        interactive = self.interactive
        meter, adapter = interactive.meter, interactive.adapter
        accumulation, alignment = adapter.accumulation, adapter.alignment
        if alignment.is_active and (nothing := alignment.pass_over(self)) is not None:
            return nothing
        if adapter.feed.sought is not None:  # its data failed; the loop leaves after this batch
            return torch.zeros((), device=self.args.device)
        if accumulation.is_changed and (group := accumulation.take()) is not None:
            num_items_in_batch = group.items
            self.current_gradient_accumulation_steps = group.size
        if interactive.sources is not None:
            interactive.sources.begin(inputs)
        if meter is None:
            return super().training_step(model, inputs, num_items_in_batch)
        meter.add_batch(inputs)
        try:
            loss = super().training_step(model, inputs, num_items_in_batch)
        except Exception as error:
            if not interactive.is_trial_over(error):
                raise
            return torch.zeros((), device=self.args.device)
        meter.losses.append(loss)  # no call: between two steps each costs several times what it does elsewhere
        # The loop adds it up for its own log, in transformers 4 where nobody can put it back.
        session = interactive.session
        return loss if session is None or session.is_quiet or not session.is_trying else torch.zeros_like(loss)
