"""Tasks on the real Trainer of transformers: faults, hooks and budget around a loop that is left as it is."""

from __future__ import annotations

import importlib.util
import math
import sys
import tempfile
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.data import Subset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments, default_data_collator

from agenttune.bench.catalog import TaskFacts
from agenttune.bench.tasks.course import Course, recorded
from agenttune.bench.tasks.engine_live import EngineLive
from agenttune.bench.tasks.injection import Injector, make_injector
from agenttune.bench.tasks.optimizers import make_optimizer, make_schedule
from agenttune.bench.training import Split, Task, Trained, Training
from agenttune.trainer.integrations.hf_trainer import make_interactive
from agenttune.trainer.options import Options

LOGGING_STEPS = 10
JITTER_OFFSET = 1_000_003
"""Seeds of the order of data, where it is to be another one."""

SEARCHED_IN_STEPS = "lomo_optim"
"""A package that accelerate looks for twice in every step; where it is not there, that is an eighth of a small step."""


def as_batch(rows: Any) -> dict[str, Any]:
    """A batch of rows, which `Rows` has made already."""
    made: dict[str, Any] = rows if isinstance(rows, dict) else default_data_collator(rows)
    return made


@dataclass
class Parts:
    """What a task trains.

    Attributes:
        model: Its forward pass takes a batch by keywords and returns `{"loss": [], ...}`.
        train_dataset: As the Trainer takes it.
        eval_dataset: Rows held out: every other one, the first of all included, for the run's evaluations, and the
            rest for the final one.
        batch_size, eval_batch_size: Examples a step.
        collator: Makes batches.
        compute_metrics: As the Trainer takes it, where the metric is not the loss.
        groups: Parameter groups (`params`, `lr_factor`); None: one.
    """

    model: nn.Module
    train_dataset: Any
    eval_dataset: Any
    batch_size: int = 32
    eval_batch_size: int = 500
    collator: Callable[[Any], dict[str, Any]] = as_batch
    compute_metrics: Callable[[Any], dict[str, float]] | None = None
    groups: list[dict[str, Any]] | None = None


class HfTask(Task):
    """A task on transformers' Trainer."""

    def __init__(self, facts: TaskFacts) -> None:
        self.facts = facts

    @abstractmethod
    def parts(self, seed: int, split: Split) -> Parts:
        """Model and data; the same for the same arguments.

        Args:
            seed: Of the initialization; torch's generator is seeded with it already.
            split: Networks and data of the two ranges are disjoint.
        """

    def injector(self, training: Training, parts: Parts) -> Injector:
        """The training's fault at work."""
        return make_injector(training.fault, parts.model, training.seed)

    def train(self, training: Training) -> Trained:
        torch.set_num_threads(1)
        _stop_searching()
        torch.manual_seed(training.seed)
        parts = self.parts(training.seed, training.split)
        injector = self.injector(training, parts)
        with tempfile.TemporaryDirectory() as scratch, recorded(training):
            loop = _HfLoop(self.facts, training, parts, injector, scratch)
            return loop.run()


class _HfLoop:
    """One training: the trainer, and what is noted of it."""

    def __init__(self, facts: TaskFacts, training: Training, parts: Parts, injector: Injector, scratch: str) -> None:
        self.facts, self.training, self.injector = facts, training, injector
        self.recipe = training.recipe
        self.course, self.loss = Course(training), math.nan
        self.shown_rows, self.final_rows = (_every_other(parts.eval_dataset, first) for first in (0, 1))
        self.fault_offset = 0
        self.eval_every = injector.eval_every(self.recipe.eval_every)
        self.trainer = self._make(parts, scratch)
        self.live = EngineLive(self)
        self.trainer.add_callback(_Callback(self))

    def _make(self, parts: Parts, scratch: str) -> Any:
        recipe, agent = self.recipe, self.training.agent
        arguments = TrainingArguments(
            output_dir=scratch,
            max_steps=recipe.steps,
            per_device_train_batch_size=parts.batch_size,
            per_device_eval_batch_size=parts.eval_batch_size,
            learning_rate=recipe.lr,
            max_grad_norm=recipe.max_grad_norm,
            eval_strategy="steps",
            eval_steps=self.eval_every,
            metric_for_best_model=self.facts.metric,
            logging_steps=LOGGING_STEPS,
            logging_nan_inf_filter=False,
            save_strategy="no",
            seed=self._order_seed,
            data_seed=self._order_seed,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            label_names=["labels"],
        )
        kind: Any = _BenchTrainer if agent is None else make_interactive(_BenchTrainer)
        more: dict[str, Any] = {}
        if agent is not None:
            more["agenttune"] = Options(runs_dir=agent.folder, server=False, consult=agent.consult)
        made = kind(
            model=parts.model,
            args=arguments,
            train_dataset=parts.train_dataset,
            eval_dataset=self.shown_rows,
            data_collator=parts.collator,
            compute_metrics=parts.compute_metrics,
            **more,
        )
        made.loop, made.groups = self, parts.groups
        made.remove_callback(PrinterCallback)
        # After the loop's own plan of a step, and before agenttune: it then meets the run as the fault left it.
        made.callback_handler.callbacks.insert(1, _Fault(self))
        return made

    @property
    def _order_seed(self) -> int:
        return self.training.seed + (JITTER_OFFSET if self.training.jitter else 0)

    @property
    def is_trying(self) -> bool:
        """Whether the present steps are those of a probe, and will be undone."""
        interactive = getattr(self.trainer, "interactive", None)
        return interactive is not None and bool(interactive.is_trying)

    @property
    def step(self) -> int:
        return int(self.trainer.state.global_step)

    @property
    def model(self) -> Any:
        return self.trainer.model

    @property
    def optimizer(self) -> Any:
        optimizer = self.trainer.optimizer
        return getattr(optimizer, "optimizer", optimizer)  # accelerate wraps it

    @property
    def scheduler(self) -> Any:
        scheduler = self.trainer.lr_scheduler
        return getattr(scheduler, "scheduler", scheduler)

    def run(self) -> Trained:
        self.trainer.train()
        self.course.end()
        for hook in self.training.hooks:
            hook.ended(self.live)
        return self.course.trained(self.step, self.evaluate(self.final_rows), self.injector.layer)

    def evaluate(self, rows: Any) -> float:
        """The metric as it is, whatever the fault does to the run's own evaluations; random states stay."""
        trainer = self.trainer
        with torch.random.fork_rng():
            loader = trainer.get_eval_dataloader(rows)
            output = Trainer.evaluation_loop(trainer, loader, "evaluation", prediction_loss_only=None)
        return _value(output.metrics, self.facts.metric)

    def look(self) -> float:
        name = self.facts.metric
        return _value(self.injector.evaluation({name: self.evaluate(self.shown_rows)}, self.step, name), name)

    def note(self, value: float) -> None:
        """An evaluation of the run, or of a probe's trial, which is none of the run's."""
        step = self.step
        if self.is_trying or step % self.eval_every:
            self.course.extra_evaluations += 1
        if not self.is_trying:
            self.course.evaluated(step, value)


def _stop_searching() -> None:
    """Say once that the package is missing, by Python's own word for it, `None` among the modules."""
    if importlib.util.find_spec(SEARCHED_IN_STEPS) is None:
        sys.modules[SEARCHED_IN_STEPS] = None  # type: ignore[assignment]


def _every_other(rows: Any, first: int) -> Subset[Any]:
    """Interleaved, as neighbours may be alike: pieces of one text, or all of one source."""
    return Subset(rows, range(first, len(rows), 2))


def _value(metrics: Mapping[str, Any], name: str) -> float:
    return float(metrics.get(name, math.nan))


class _BenchTrainer(Trainer):  # type: ignore[misc]
    """The Trainer, with a recipe's optimizer and a fault's doings."""

    loop: _HfLoop
    groups: list[dict[str, Any]] | None
    optimizer: Any
    lr_scheduler: Any

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        if self.optimizer is None:
            trained = [p for p in self.model.parameters() if p.requires_grad]
            self.optimizer = make_optimizer(self.loop.recipe, self.groups or trained)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.lr_scheduler is None:
            maximize = self.loop.facts.direction == "maximize"
            self.lr_scheduler = make_schedule(self.loop.recipe, optimizer or self.optimizer, maximize)
        return self.lr_scheduler

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        loop = self.loop
        step = int(self.state.global_step) + loop.fault_offset
        inputs = loop.injector.before_forward(inputs, step)
        loss = super().training_step(model, inputs, num_items_in_batch)
        loop.injector.after_backward(step)
        loop.course.total_steps += 1
        loop.loss = float(loss.detach())
        return loss

    def log(self, logs: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        is_of_training = "loss" in logs
        row = self.loop.injector.log_row(int(self.state.global_step)) if is_of_training else {}
        super().log(logs | row, *args, **kwargs)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        output = super().evaluation_loop(*args, **kwargs)
        loop = self.loop
        loop.note(_value(output.metrics, loop.facts.metric))
        metrics = loop.injector.evaluation(dict(output.metrics), int(self.state.global_step), loop.facts.metric)
        return output._replace(metrics=metrics)


class _Fault(TrainerCallback):  # type: ignore[misc]
    """What a fault does between steps, those of probes included."""

    def __init__(self, loop: _HfLoop) -> None:
        self._loop = loop

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        loop = self._loop
        if loop.course.start is None:
            loop.course.begin(loop.evaluate(loop.shown_rows))
        loop.injector.started(loop.live, loop.training.agent)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step, injector = int(state.global_step), self._loop.injector
        injector.after_step(step + self._loop.fault_offset, self._loop.is_trying)
        if control.should_evaluate and not injector.evaluates(step):
            control.should_evaluate = False


class _Callback(TrainerCallback):  # type: ignore[misc]
    """Budget and hooks, at the ends of steps."""

    def __init__(self, loop: _HfLoop) -> None:
        self._loop = loop

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for hook in self._loop.training.hooks:
            hook.started(self._loop.live)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        loop = self._loop
        if loop.is_trying:
            return
        step = int(state.global_step)
        loop.course.stepped(step, loop.loss, loop.live.lr)
        for hook in loop.training.hooks:
            hook.stepped(loop.live, loop.loss)
        if loop.course.is_spent or loop.live.is_stopped:
            control.should_training_stop = True

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        loop = self._loop
        if metrics is None or loop.facts.metric not in metrics:
            return
        for hook in loop.training.hooks:
            hook.evaluated(loop.live, float(metrics[loop.facts.metric]))
        if loop.live.is_stopped:
            control.should_training_stop = True
