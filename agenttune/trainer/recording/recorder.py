"""What a training process writes into its run's log, in the background."""

from __future__ import annotations

import logging
from collections.abc import Callable

from agenttune.protocol.events import KnobsRead, Settled
from agenttune.protocol.proposals import Record
from agenttune.protocol.run_facts import RunFacts
from agenttune.store.run_log import RunLog
from agenttune.trainer.datasets.record import read_dataset
from agenttune.trainer.layers.fresh_weights import looks_trained
from agenttune.trainer.layers.model_tree import model_read
from agenttune.trainer.recording.background_writer import BackgroundWriter
from agenttune.trainer.run_state import RunState

logger = logging.getLogger("agenttune")


class Recorder:
    """Writes events with the step and branch that training is at; on ranks that only follow, nothing.

    Args:
        run_state: The run.
        writer: Writes the log; None on ranks that only follow.
    """

    def __init__(self, run_state: RunState, writer: BackgroundWriter | None) -> None:
        self._run_state = run_state
        self._writer = writer
        self._trained_before: bool | None = None

    def record(
        self, *bodies: Record, command_id: str | None = None, step: int | None = None, urgent: bool = True
    ) -> None:
        """Write events of this step, or of another one."""
        at, branch = self._run_state.step if step is None else step, self._run_state.branch
        self.submit(lambda log: log.append(*bodies, step=at, branch=branch, command_id=command_id), urgent)

    def update_info(self, **fields: object) -> None:
        """Change fields of the run's identity card."""
        self.submit(lambda log: log.update_info(**fields))

    def settle(self, command_id: str, settled: Settled) -> None:
        """Write how the probation of a command ended."""
        step, branch = self._run_state.step, self._run_state.branch
        self.submit(lambda log: log.settle(command_id, settled, step, branch))

    def submit(self, job: Callable[[RunLog], object], urgent: bool = True) -> None:
        """Any other write."""
        if self._writer is not None:
            self._writer.submit(job, urgent)

    @property
    def is_held_up(self) -> bool:
        """Whether the log cannot be written for now, as on a full disk."""
        return self._writer is not None and self._writer.is_held_up

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.close()

    # -- what is read for the log -----------------------------------------------------------------------------

    def look_at_weights(self, earlier: RunFacts | None) -> None:
        """Note what the weights tell of a training before this run, while none of it has moved them.

        Args:
            earlier: Facts of the run's attempt before: it began with that one's weights, not with those of now.
        """
        if earlier is not None:
            self._trained_before = earlier.trained_before
            return
        try:
            self._trained_before = looks_trained(self._run_state.adapter.model())
        except Exception:  # as below; a loop may also not know its model
            logger.debug("whether the weights were trained before cannot be told", exc_info=True)

    def knobs_read(self) -> KnobsRead:
        """Knobs, the learning rates to come and the facts of the training, as one event."""
        return KnobsRead(knobs=self._run_state.knobs(), schedule=self._run_state.course(), facts=self._facts())

    def _facts(self) -> RunFacts | None:
        try:
            facts = self._run_state.adapter.facts()
        except Exception:  # the user's model and data can be anything; training is worth more than what is told of them
            logger.exception("what there is to know of this training cannot be read")
            return None
        return None if facts is None else facts.model_copy(update={"trained_before": self._trained_before})

    def whole_read(self) -> list[Record]:
        """The model's layers and the training dataset, as they are now."""
        adapter, found = self._run_state.adapter, list[Record]()
        try:
            found.append(model_read(adapter, self._run_state.registry.layers))
            dataset = adapter.train_dataset()
            if dataset is not None:
                found.append(read_dataset(dataset))
        except Exception:  # the user's model and dataset can be anything; training is worth more than their picture
            logger.exception("the model or the dataset cannot be read for the log")
        return found
