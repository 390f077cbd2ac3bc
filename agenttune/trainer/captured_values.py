"""Values that commands change and no state dict holds: captured with a checkpoint, and restored with it."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from typing import Any

from agenttune.protocol.proposals import Change
from agenttune.trainer.checkpoints.training_state import TrainingState, not_as_saved
from agenttune.trainer.datasets.record import capture_dataset, dataset_as_captured, is_rebuilt_since, restore_dataset
from agenttune.trainer.lr.optimizers import same
from agenttune.trainer.run_state import REASON_CHARACTERS, RunState

logger = logging.getLogger("agenttune")


def capture_values(run_state: RunState) -> dict[str, Any]:
    """Settings of the loop, registered knobs, layers and the training dataset, as they are now."""
    dataset = run_state.adapter.train_dataset()
    return {
        "settings": {knob.name: knob.effective for knob in run_state.adapter.settings()},
        "knobs": {knob.name: knob.effective for knob in run_state.registry.states() if knob.effective is not None},
        "layers": run_state.layers.capture(),
        "dataset": capture_dataset(dataset) if dataset is not None else {},
    }


def capture_registered(run_state: RunState) -> dict[str, Any]:
    """The states of what the user has registered, as they are now: copies, which training does not change."""
    return {name: copy.deepcopy(held.state_dict()) for name, held in run_state.registry.held.items()}


def restore_registered(run_state: RunState, saved: Mapping[str, Any]) -> None:
    """Restore them; those that the checkpoint does not have stay as they are."""
    for name, held in run_state.registry.held.items():
        if name in saved:
            held.load_state_dict(copy.deepcopy(saved[name]))


def prepare_dataset(run_state: RunState, saved: dict[str, Any]) -> object | None:
    """The training dataset that a checkpoint was drawn from, built anew if it has been rebuilt since; else None.

    Raises:
        UserError: It was another dataset, or can no longer be built.
    """
    dataset, captured = run_state.adapter.train_dataset(), saved.get("dataset")
    if captured is None or dataset is None or not is_rebuilt_since(dataset, captured):
        return None
    return dataset_as_captured(dataset, captured)


def restore_values(run_state: RunState, saved: dict[str, Any], dataset: object | None) -> list[Change]:
    """Restore the values that differ; those that the checkpoint does not have stay as they are.

    Args:
        run_state: The run.
        saved: From `capture_values`.
        dataset: From `prepare_dataset`.

    Raises:
        UserError: A value was not taken.
    """
    changes = _restore_settings(run_state, saved.get("settings", {}))
    now = {knob.name: knob.effective for knob in run_state.registry.states()}
    for name, value in saved.get("knobs", {}).items():
        if name in now and not same(now[name], value):
            changes.append(run_state.registry.set(name, value)[0])
    changes += run_state.layers.restore(saved.get("layers", {}))
    current = run_state.adapter.train_dataset()
    if dataset is not None:
        run_state.adapter.replace_dataset(dataset, keeps_place=True)
    elif current is not None and "dataset" in saved:
        restore_dataset(current, saved["dataset"])
    return changes


def _restore_settings(run_state: RunState, saved: dict[str, Any]) -> list[Change]:
    adapter = run_state.adapter
    before = {knob.name: knob.effective for knob in adapter.settings()}
    differing = {name: value for name, value in saved.items() if name in before and not same(before[name], value)}
    for name, value in differing.items():
        adapter.change_setting(name, value)
    after = {knob.name: knob.effective for knob in adapter.settings()}
    return [
        Change(name=name, previous=before[name], requested=value, effective=after[name])
        for name, value in differing.items()
    ]


def restore_own_values(run_state: RunState, state: TrainingState, dataset: object | None) -> tuple[list[Change], str]:
    """Check that the loop's state is as saved, then restore settings, knobs, layers and dataset.

    Returns:
        The changes, and what went wrong, empty if nothing did.
    """
    adapter = run_state.adapter
    try:
        wrong = not_as_saved(adapter.model(), adapter.optimizer(), state)
        if wrong:
            return [], f"these do not stand as saved: {', '.join(wrong)}"[:REASON_CHARACTERS]
        restore_registered(run_state, state.extra.get("registered", {}))
        return restore_values(run_state, state.steered, dataset), ""
    except Exception as error:  # training stands in the midst of the return; it must not end with it
        logger.exception("not all went back to step %d", state.step)
        return [], f"not all went back: {type(error).__name__}: {error}"[:REASON_CHARACTERS]
