"""`make_interactive`: any transformers Trainer class, steerable. Public methods and callbacks only, no copied loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch

from agenttune.trainer.integrations.hf_adapter import HfAdapter
from agenttune.trainer.integrations.hf_callback import InteractiveCallback
from agenttune.trainer.integrations.hf_epochs import PlannedEpochs
from agenttune.trainer.lr.planned_lr import make_steerable
from agenttune.trainer.options import Options


def make_interactive(trainer_class: type[Any], *, host: str | None = None, port: int | None = None) -> type[Any]:
    """A subclass of a Trainer whose runs are recorded and can be steered while they train.

    Same constructor, with the keywords `agenttune: Options | None`, `host` and `port` besides. With no command issued,
    losses are bit-identical to those of `trainer_class`.

    Args:
        trainer_class: `transformers.Trainer` or a subclass of it, such as those of TRL.
        host: Address of the control server, where one has to be started; also a keyword of the constructor, as in v1.
        port: Its port; the same.

    Returns:
        The subclass; its trainers also have `register_knob`.
    """

    class Interactive(trainer_class):  # type: ignore[misc]
        def __init__(
            self,
            *args: Any,
            agenttune: Options | None = None,
            host: str | None = host,
            port: int | None = port,
            **kwargs: Any,
        ) -> None:
            super().__init__(*args, **kwargs)
            adapter = HfAdapter(self)
            asked: dict[str, Any] = {"host": host, "port": port}
            given = {name: value for name, value in asked.items() if value is not None}
            self.interactive = InteractiveCallback(replace(agenttune or Options(), **given), adapter)
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

        def train(self, *args: Any, **kwargs: Any) -> Any:
            self.interactive.adapter.note_resume(args[0] if args else kwargs.get("resume_from_checkpoint"))
            self.interactive.name_after(self.args)
            self.interactive.open()
            PlannedEpochs(self.interactive.adapter.plan, self.callback_handler)
            accelerator = self.accelerator
            clip = accelerator.clip_grad_norm_

            def clip_and_note(*clip_args: Any, **clip_kwargs: Any) -> Any:
                try:
                    norm = clip(*clip_args, **clip_kwargs)
                except Exception as error:
                    if not self.interactive.is_trial_over(error):
                        raise
                    return torch.zeros((), device=self.args.device)
                if self.interactive.meter is not None:
                    self.interactive.meter.set_norm(norm)
                return norm

            accelerator.clip_grad_norm_ = clip_and_note
            try:
                output = super().train(*args, **kwargs)
            except BaseException as error:
                self.interactive.close_after(error)
                raise
            finally:
                del accelerator.clip_grad_norm_
            self.interactive.close_normally()
            return output

        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
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
            return loss if session is None or session.is_calm or not session.is_trying else torch.zeros_like(loss)

        def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: Any) -> Any:
            interactive = self.interactive
            session, adapter = interactive.session, interactive.adapter
            if interactive.rows.is_holding:
                interactive.flush_rows()
            if session is not None and not session.is_calm and session.waits_between and interactive.between():
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

        def get_train_dataloader(self) -> Any:
            loader = self.make_train_dataloader()
            self.interactive.adapter.feed.attach(loader)
            return loader

        def make_train_dataloader(self) -> Any:
            """A loader of the training dataset as it is now, that nobody follows."""
            loader = super().get_train_dataloader()
            self.interactive.watch_sources(loader, self.train_dataset)
            return loader

        def set_initial_training_values(self, *args: Any, **kwargs: Any) -> Any:
            values = super().set_initial_training_values(*args, **kwargs)
            return self.interactive.adapter.plan.read(values, self.args.gradient_accumulation_steps)

        def create_scheduler(self, *args: Any, **kwargs: Any) -> Any:
            scheduler = super().create_scheduler(*args, **kwargs)
            make_steerable(scheduler)
            return scheduler

    Interactive.__name__ = Interactive.__qualname__ = f"Interactive{trainer_class.__name__}"
    return Interactive
