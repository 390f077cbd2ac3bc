"""What changes a layer's weights: a fresh start, or an operation that the user allowed by name."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer

from agenttune.errors import NotSupported, UserError
from agenttune.protocol.proposals import Change
from agenttune.protocol.text import some
from agenttune.trainer.commands.outcomes import Done
from agenttune.trainer.distributed.processes import is_distributed, share_tensors
from agenttune.trainer.distributed.shards import has_shards, whole_weights
from agenttune.trainer.layers.layer import Layer
from agenttune.trainer.layers.layer_changes import FLAG, dotted
from agenttune.trainer.layers.layer_snapshot import LayerSnapshot
from agenttune.trainer.layers.model_tree import held_by, owner_of, squares
from agenttune.trainer.layers.permissions import check_arguments
from agenttune.trainer.layers.reset import Fresh, check_clearable, clear_state, reset
from agenttune.trainer.lr.optimizers import inner_optimizer
from agenttune.trainer.run_state import RunState


def reset_layer(run_state: RunState, layer: Layer, params: dict[str, Any]) -> Done:
    """`reset_parameters`: as the model initializes them; in a distributed run every rank takes rank 0's."""
    check_arguments("reset_parameters", lambda: None, params, {})
    optimizer = run_state.adapter.optimizer()
    check_clearable(optimizer)
    run_state.agree()
    before, undo = _length(layer), _undo_reset(layer, optimizer) if is_distributed() else None
    try:
        fresh = _reset_alike(run_state, layer)
    except BaseException:
        if undo is not None:
            undo()
        raise
    run_state.layers.stamp_weights(list(fresh.parameters))
    cleared = clear_state(optimizer, fresh.parameters)
    count = sum(p.numel() for p in fresh.parameters)
    how = f"as {fresh.owner} initializes them" if fresh.owner else "by the layers' own reset_parameters"
    notes = [
        f"{count} parameters are new, {how}; the optimizer forgot its state of {cleared}",
        layer.tied(list(fresh.parameters)),
        f"kept, as nothing knows how to initialize them: {some(fresh.kept)}" if fresh.kept else "",
    ]
    change = Change(
        name=dotted(layer.name, "weights"),
        unit="L2 norm",
        previous=before,
        requested="reset_parameters",
        effective=_length(layer),
    )
    result = {"parameters": count, "optimizer_state_cleared": cleared, "kept": fresh.kept}
    return Done("; ".join(filter(None, notes)), [change], result, undo=undo)


def _reset_alike(run_state: RunState, layer: Layer) -> Fresh:
    """The same new values on every rank; sharded weights are whole for that."""
    has_last_word = layer.parent is not None and owner_of(layer.model, layer.name) is not None
    around = layer.parent if has_last_word and layer.parent is not None else layer.module
    with whole_weights(around) as held:
        fresh = reset(layer.model, layer.name)
        run_state.agree()  # sharing waits for all
        share_tensors([*fresh.parameters, *layer.module.buffers()])
    fresh.parameters = [held.get(id(parameter), parameter) for parameter in fresh.parameters]
    return fresh


def _undo_reset(layer: Layer, optimizer: Optimizer) -> Callable[[], None]:
    """Remember the layer and what the optimizer knows of it; returns the function that restores both."""
    snapshot, inner = LayerSnapshot(layer.module), inner_optimizer(optimizer)
    known: dict[torch.Tensor, Any] = {
        p: copy.deepcopy(inner.state[p]) for p in layer.module.parameters() if inner.state.get(p)
    }

    def undo() -> None:
        snapshot.restore()
        inner.state.update(known)

    return undo


def _length(layer: Layer) -> float:
    return float(sum(squares(list(layer.module.parameters())).values()) ** 0.5)


# -- what the user allowed -----------------------------------------------------------------------------------------


def run_allowed(run_state: RunState, layer: Layer, name: str, params: dict[str, Any]) -> Done:
    """An operation that the user allowed by name; if it fails, the layer is restored."""
    given = run_state.registry.layers.operations[name]
    call = functools.partial(given, layer.module) if given is not None else getattr(layer.module, name)
    check_arguments(name, call, params, {})
    if has_shards(layer.module):
        raise NotSupported(
            f"{name}: the weights of {layer.name!r} are spread over ranks, and {name} would see a part of them"
        )
    run_state.agree()
    before, snapshot = _length(layer), LayerSnapshot(layer.module)
    try:
        with torch.no_grad():
            returned = call(**params)
        _check_left_behind(run_state, layer, name, snapshot)
        run_state.agree()  # sharing waits for all
        share_tensors([*layer.module.parameters(), *layer.module.buffers()])
    except UserError:
        snapshot.restore()
        raise
    except Exception as error:  # the user's code
        snapshot.restore()
        raise UserError(f"{name} raised {type(error).__name__}: {error}; {layer.name!r} was put back") from error
    touched = snapshot.changed_tensors()
    run_state.layers.stamp_weights(touched)
    changes = _note_changes(run_state, layer, snapshot)
    if touched:
        after = _length(layer)
        name_of = dotted(layer.name, "weights")
        changes.append(Change(name=name_of, unit="L2 norm", previous=before, requested=name, effective=after))
    result = {"returned": returned} if isinstance(returned, (bool, int, float, str)) else {}
    message = f"{name} changed {len(touched)} tensors; what the optimizer knows of them is kept"
    message = "; ".join(filter(None, [message, layer.tied(touched)]))
    return Done(message, changes, result, undo=snapshot.restore)


def _check_left_behind(run_state: RunState, layer: Layer, name: str, snapshot: LayerSnapshot) -> None:
    if snapshot.was_rebuilt():
        raise UserError(f"{name} replaced layers or tensors, which the optimizer would not train; it was put back")
    held = held_by(run_state.adapter.optimizer())
    if any(p.requires_grad and not flag and id(p) not in held for p, flag in snapshot.flags.items()):
        raise UserError(f"{name} made weights trainable that the optimizer does not hold; it was put back")
    broken = [t for t in snapshot.changed_tensors() if t.is_floating_point() and not bool(t.isfinite().all())]
    if broken:
        raise UserError(f"{name} left NaN or infinite values in {layer.name!r}; it was put back")


def _note_changes(run_state: RunState, layer: Layer, snapshot: LayerSnapshot) -> list[Change]:
    """Remember and list the attributes and flags that an operation changed."""
    changes, names = [], {id(m): n for n, m in layer.model.named_modules()}
    for module, attribute, value in snapshot.changed_attributes():
        key = (names[id(module)], attribute)
        run_state.layers.note(key, value)
        now = vars(module).get(attribute)
        changes.append(Change(name=dotted(*key), previous=value, requested=None, effective=now))
    for name, parameter in layer.parameters().items():
        was, flag = snapshot.flags[parameter], parameter.requires_grad
        if was != flag:
            parameter.requires_grad_(was)
            run_state.layers.set_flag(name, parameter, flag)
            changes.append(Change(name=dotted(name, FLAG), previous=was, requested=None, effective=flag))
    return changes
