"""`make_interactive`: any transformers Trainer class, steerable. Public methods and callbacks only, no copied loop."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from agenttune.trainer.integrations.hf_adapter import HfAdapter
from agenttune.trainer.integrations.hf_callback import InteractiveCallback
from agenttune.trainer.integrations.hf_epochs import PlannedEpochs
from agenttune.trainer.lr.planned_lr import make_plannable
from agenttune.trainer.options import Options

if TYPE_CHECKING:
    from transformers import Trainer
else:
    Trainer = object


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
                interactive.meter.set_norm(norm)
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
        make_plannable(scheduler)
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
        if interactive.rows.is_holding:
            interactive.flush_rows()
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
