"""An evaluation in the middle of training that leaves no trace in it."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from transformers import EarlyStoppingCallback

_FLAGS = ("should_training_stop", "should_epoch_stop", "should_save", "should_evaluate", "should_log")


@contextlib.contextmanager
def undisturbed(trainer: Any) -> Iterator[None]:
    """Put back random states, control flags, early stopping's patience and training mode afterwards.

    Any evaluation draws from the global random state (a data loader's base seed), and its callbacks clear flags that
    the step under way has already set.
    """
    control, model = trainer.control, trainer.model
    flags = {name: getattr(control, name) for name in _FLAGS}
    stoppers = [c for c in trainer.callback_handler.callbacks if isinstance(c, EarlyStoppingCallback)]
    patience = [stopper.early_stopping_patience_counter for stopper in stoppers]
    was_training = model.training
    with _random_states():
        try:
            yield
        finally:
            for name, value in flags.items():
                setattr(control, name, value)
                setattr(trainer.control, name, value)
            for stopper, count in zip(stoppers, patience, strict=True):
                stopper.early_stopping_patience_counter = count
            model.train(was_training)


@contextlib.contextmanager
def _random_states() -> Iterator[None]:
    python_state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)
        if cuda_states is not None:
            torch.cuda.set_rng_state_all(cuda_states)
