"""Values that commands can change and that no state dict holds: kept with a checkpoint, and put back with it."""

from __future__ import annotations

from typing import Any

from agenttune.proposals import Change
from agenttune.trainer.optimizers import same
from agenttune.trainer.steering import Steering


def capture_steered(steering: Steering) -> dict[str, Any]:
    """Settings of the loop and registered knobs, as they read now."""
    return {
        "settings": {knob.name: knob.effective for knob in steering.adapter.settings()},
        "knobs": {knob.name: knob.effective for knob in steering.registry.states() if knob.effective is not None},
    }


def restore_steered(steering: Steering, saved: dict[str, Any]) -> list[Change]:
    """Write back what differs; what the checkpoint does not know stays as it is.

    Raises:
        UserError: A knob did not take its old value.
    """
    changes = []
    adapter = steering.adapter
    before = {knob.name: knob.effective for knob in adapter.settings()}
    for name, value in saved.get("settings", {}).items():
        if name in before and not same(before[name], value):
            adapter.change_setting(name, value)
            changes.append(Change(name=name, previous=before[name], requested=value, effective=value))
    now = {knob.name: knob.effective for knob in steering.registry.states()}
    for name, value in saved.get("knobs", {}).items():
        if name in now and not same(now[name], value):
            changes.append(steering.registry.set(name, value)[0])
    return changes
