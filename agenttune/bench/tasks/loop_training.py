"""Tasks on a plain loop: the bare loop, or the same loop with `agenttune.session` where an agent takes part.

Made for simulators, whose step takes some ten microseconds: what is done for every step counts.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator

import numpy as np
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader, Dataset

from agenttune.bench.catalog import TaskFacts
from agenttune.bench.seeds import seed_torch
from agenttune.bench.tasks.course import Course, recorded
from agenttune.bench.tasks.engine_live import EngineLive
from agenttune.bench.tasks.injection import Injector, make_injector
from agenttune.bench.tasks.optimizers import make_schedule
from agenttune.bench.training import Task, Trained, Training
from agenttune.errors import NotSupported
from agenttune.protocol.run_facts import Rhythm, RunFacts
from agenttune.protocol.run_info import KnobState
from agenttune.trainer.adapter import SettingValue
from agenttune.trainer.integrations.plain_adapter import PlainAdapter
from agenttune.trainer.integrations.plain_loop import PlainSession
from agenttune.trainer.options import Options

LOGGING_STEPS = 10
"""As a Trainer would: every so many steps their mean loss is logged."""


class LoopModel(nn.Module):
    """What a loop trains: a network, or a simulation of one. All that training changes is in its `state_dict`.

    Attributes:
        optimizer: Steps it.
        max_grad_norm: Clips gradients; 0: not at all.
    """

    optimizer: Optimizer
    max_grad_norm: float = 0.0

    @abstractmethod
    def train_on(self, batch: int) -> float:
        """The training loss of a batch; leaves gradients where optimizers look for them.

        Args:
            batch: Its place in the data.
        """

    @abstractmethod
    def clip(self) -> float:
        """Clip the gradients; returns their norm before."""

    @abstractmethod
    def evaluate(self) -> float:
        """The task's metric as a run sees it; the same for the same weights."""

    def final_value(self) -> float:
        """The metric on data that no `evaluate` sees; the same where that is exact."""
        return self.evaluate()


class LoopTask(Task):
    """A task on a plain loop."""

    def __init__(self, facts: TaskFacts) -> None:
        self.facts = facts

    @abstractmethod
    def model(self, training: Training) -> LoopModel:
        """Model and optimizer at the start; the same for the same seed, split and fault."""

    def train(self, training: Training) -> Trained:
        seed_torch(training.seed)
        model = self.model(training)
        loop = _Loop(self.facts, training, model, make_injector(training.fault, model, training.seed))
        # A training that diverges overflows, and says so by its losses.
        with recorded(training), np.errstate(over="ignore", invalid="ignore"):
            return loop.run()


class _Places(Dataset[int]):
    """Data whose batches are known by their places."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, place: int) -> int:
        return place


class Places(DataLoader[int]):
    """A loader of places, in order; what a `DataLoader` does for each batch would take longer than a simulated step."""

    def __init__(self, count: int) -> None:
        super().__init__(_Places(count), batch_size=None)

    def __iter__(self) -> Iterator[int]:  # type: ignore[override]
        return iter(range(len(self.dataset)))  # type: ignore[arg-type]


class _Adapter(PlainAdapter):
    """A plain loop that tells as much of itself as a Trainer does, and whose clipping can be changed."""

    eval_every = 0

    def facts(self) -> RunFacts:
        rhythms = {"evaluation": Rhythm(every=self.eval_every), "logging": Rhythm(every=LOGGING_STEPS)}
        return super().facts().model_copy(update=rhythms)

    def settings(self) -> list[KnobState]:
        clipping = KnobState(name="max_grad_norm", effective=self._loop_model.max_grad_norm, command="update_training")
        return [*super().settings(), clipping]

    @property
    def _loop_model(self) -> LoopModel:
        model = self.model()
        if not isinstance(model, LoopModel):
            raise NotSupported(f"the model is a {type(model).__name__}, not a LoopModel")
        return model

    def check_setting(self, name: str, value: SettingValue, step: int) -> str:
        if name == "max_grad_norm":
            return "gradients are no longer clipped" if value == 0 else ""
        return super().check_setting(name, value, step)

    def change_setting(self, name: str, value: SettingValue) -> None:
        if name == "max_grad_norm":
            self._loop_model.max_grad_norm = float(value)
        else:
            super().change_setting(name, value)


class _Loop:
    """One training."""

    def __init__(self, facts: TaskFacts, training: Training, model: LoopModel, injector: Injector) -> None:
        self.training, self.model, self.injector = training, model, injector
        self.recipe, self._metric = training.recipe, facts.metric
        self.model.max_grad_norm = self.recipe.max_grad_norm
        self.optimizer = model.optimizer
        self._to_training: Callable[[], object] | None = getattr(model.optimizer, "train", None)
        self._to_evaluation: Callable[[], object] | None = getattr(model.optimizer, "eval", None)
        self.scheduler = make_schedule(self.recipe, self.optimizer, facts.direction == "maximize")
        self._follows_metric = isinstance(self.scheduler, ReduceLROnPlateau)
        self._eval_every = injector.eval_every(self.recipe.eval_every)
        # Longer than the plan, so that it has no second epoch unless an agent extends the run.
        self._places = Places(max(self.recipe.steps, training.budget))
        self._logged: list[float] = []
        self._grad_norm = math.nan
        self.course = Course(training)
        self.step = self.fault_offset = 0
        self.live = EngineLive(self)

    def run(self) -> Trained:
        self.course.begin(self.evaluate())
        self.injector.started(self.live, self.training.agent)
        for hook in self.training.hooks:
            hook.started(self.live)
        if self.training.agent is None:
            self._run_bare()
        else:
            self._run_with_agent(Options(server=False, consult=self.training.agent.consult))
        self.course.end()
        for hook in self.training.hooks:
            hook.ended(self.live)
        return self.course.trained(self.step, self.evaluate(is_final=True), self.injector.layer)

    def _run_bare(self) -> None:
        while True:
            for place in self._places:
                loss = self._update(place + self.fault_offset, self.step + self.fault_offset)
                self.step += 1
                self.injector.after_step(self.step + self.fault_offset)
                self._after_step(loss, None)
                if self._is_over or self.step >= self.recipe.steps:
                    return

    def _run_with_agent(self, options: Options) -> None:
        adapter = _Adapter(
            self.model, self.optimizer, self.scheduler, None, self._shown_evaluation, self.recipe.steps, None
        )
        adapter.eval_every = self._eval_every
        with PlainSession(adapter, options) as session:
            for place in session.batches(self._places):
                loss = self._update(place, session.global_step)
                # Before agenttune looks for commands, as an operator's may be among what the fault does.
                self.injector.after_step(session.global_step + 1, _is_trying(session))
                is_last = session.step({"step_loss": loss, "step_grad_norm": self._grad_norm})
                self.step = session.global_step
                if _is_trying(session):
                    continue
                self._after_step(loss, session)
                if is_last or self._is_over:
                    return

    def _update(self, place: int, step: int) -> float:
        """One step of the optimizer; returns the loss before it.

        Args:
            place: In the data.
            step: Completed steps.
        """
        if self._to_training is not None:
            self._to_training()
        loss = self.model.train_on(place)
        self.injector.after_backward(step)
        self._grad_norm = self.model.clip()
        self.optimizer.step()
        if not self._follows_metric:
            self.scheduler.step()  # type: ignore[call-arg]
        self.course.total_steps += 1
        return loss

    @property
    def _is_over(self) -> bool:
        return self.live.is_stopped or self.course.is_spent

    def _after_step(self, loss: float, session: PlainSession | None) -> None:
        """A step of the run itself, not of a probe, is complete."""
        self.course.stepped(self.step, loss, self.live.lr)
        if session is not None:
            self._log(loss, session)
        for hook in self.training.hooks:
            hook.stepped(self.live, loss)
        if self.step % self._eval_every == 0 and self.injector.evaluates(self.step):
            self._evaluate(session)

    def _log(self, loss: float, session: PlainSession) -> None:
        self._logged.append(loss)
        if self.step % LOGGING_STEPS == 0:
            mean = sum(self._logged) / len(self._logged)
            self._logged.clear()
            row = {"loss": mean, "grad_norm": self._grad_norm, "learning_rate": self.live.lr}
            session.run.log_row(row | self.injector.log_row(self.step))

    def _evaluate(self, session: PlainSession | None) -> None:
        value = self.evaluate()
        self.course.evaluated(self.step, value)
        shown = self._shown(value)
        if session is not None:
            session.log_eval(shown)
        if self._metric not in shown:
            return
        if self._follows_metric:
            self.scheduler.step(shown[self._metric])  # type: ignore[arg-type]
        for hook in self.training.hooks:
            hook.evaluated(self.live, shown[self._metric])

    def evaluate(self, is_final: bool = False) -> float:
        """The metric as it is, by weights as the optimizer wants them evaluated (Schedule-Free has two kinds)."""
        if self._to_evaluation is not None:
            self._to_evaluation()
        return self.model.final_value() if is_final else self.model.evaluate()

    def look(self) -> float:
        return float(self._shown(self.evaluate()).get(self._metric, math.nan))

    def _shown(self, value: float) -> dict[str, float]:
        return self.injector.evaluation({self._metric: value}, self.step, self._metric)

    def _shown_evaluation(self) -> dict[str, float]:
        self.course.extra_evaluations += 1
        return self._shown(self.evaluate())


def _is_trying(session: PlainSession) -> bool:
    """Whether the present steps are those of a probe, and will be undone."""
    return session.run.session is not None and session.run.session.is_trying
