"""The three commands on layers: find the layer, check, do it, read it back."""

from __future__ import annotations

from typing import Any

import torch

from agenttune.errors import UserError
from agenttune.protocol.commands import FREEZE, ModelLayerOperation, ModelLayerParameterUpdate, ReadModel
from agenttune.protocol.proposals import Change, CommandRecord
from agenttune.trainer.commands.layer_freezing import freeze_or_train
from agenttune.trainer.commands.layer_operations import reset_layer, run_allowed
from agenttune.trainer.commands.outcomes import Done, Expectation, NotYet, Outcome, applies
from agenttune.trainer.layers.layer import Layer, find_layer
from agenttune.trainer.layers.layer_changes import dotted
from agenttune.trainer.layers.model_tree import GradientMonitor, Squares, held_by, model_read, owner_of, read_model
from agenttune.trainer.layers.permissions import (
    EPSILONS,
    PROBABILITIES,
    LayerRules,
    fitted,
    is_bypassed,
    offered_attributes,
    offered_operations,
    offered_tensors,
    unknown,
)
from agenttune.trainer.layers.reset import can_reset, check_whole
from agenttune.trainer.lr.optimizers import inner_optimizer, same
from agenttune.trainer.run_state import RunState

LISTED_ELEMENTS = 8
"""A tensor of more elements is described in an ack by a few figures."""


# -- operations ----------------------------------------------------------------------------------------------------


@applies(ModelLayerOperation)
def operate_on_layer(run_state: RunState, record: CommandRecord, command: ModelLayerOperation) -> Outcome:
    rules, name = run_state.registry.layers, command.operation_name
    layer = find_layer(run_state.adapter, command.layer_name, takes_parameter=name == FREEZE)
    if layer.only is None:
        _check_offered(layer, rules, name)
    if name == FREEZE:
        done = freeze_or_train(run_state, layer, command.params)
    elif name == "reset_parameters":
        done = reset_layer(run_state, layer, command.params)
    else:
        done = run_allowed(run_state, layer, name, command.params)
    done.events = (model_read(run_state.adapter, rules),)
    return done


def _check_offered(layer: Layer, rules: LayerRules, name: str) -> None:
    has_parameters = next(layer.module.parameters(), None) is not None
    owner = owner_of(layer.model, layer.name)
    resettable = any(can_reset(module, owner) for module in layer.module.modules())
    offered = offered_operations(layer.module, rules, has_parameters, resettable)
    if name not in offered:
        where = f" on layer {layer.name!r} ({type(layer.module).__name__}); others are allowed with "
        raise unknown("operation", name, offered, "operation_name", where + "allow_layer_operation")


# -- hyperparameters, weights and buffers --------------------------------------------------------------------------


@applies(ModelLayerParameterUpdate)
def update_layer_parameter(run_state: RunState, record: CommandRecord, command: ModelLayerParameterUpdate) -> Outcome:
    layer = find_layer(run_state.adapter, command.layer_name)
    rules, name = run_state.registry.layers, command.param_name
    attributes = offered_attributes(layer.module, rules, layer.parent)
    tensors = offered_tensors(layer.module)
    if name in attributes:
        done = _set_attribute(run_state, layer, name, command.value)
    elif name in tensors:
        done = _write_tensor(run_state, layer, name, tensors[name], command.value)
    else:
        raise _not_offered(layer, name, [*attributes, *tensors])
    done.events = (model_read(run_state.adapter, rules),)
    return done


def _not_offered(layer: Layer, name: str, offered: list[str]) -> UserError:
    kind = type(layer.module).__name__
    if layer.parent is not None and is_bypassed(layer.module, layer.parent):
        parent = layer.name.rpartition(".")[0]
        return UserError(
            f"{layer.name} is not used: {type(layer.parent).__name__} hands its own dropout_prob to a fused attention; "
            f"change parameter 'dropout_prob' of layer {parent!r}",
            field="layer_name",
            allowed=[parent],
        )
    if name in layer.module._buffers:
        return UserError(
            f"{name} of {layer.name!r} is a buffer that checkpoints do not hold; a branch could not bring it back",
            field="param_name",
            allowed=offered,
        )
    value = vars(layer.module).get(name)
    if isinstance(value, (bool, int, float, str)) and not name.startswith("_") and name != "training":
        return UserError(
            f"{name} of {layer.name!r} ({kind}, now {value!r}) mostly is fixed when the layer is built; offered: "
            f"{', '.join(offered) or 'none'}; if its code reads it anew each time, allow_layer_parameter({name!r})",
            field="param_name",
            allowed=offered,
        )
    return unknown("parameter", name, offered, "param_name", f" of layer {layer.name!r} ({kind})")


def _set_attribute(run_state: RunState, layer: Layer, name: str, value: Any) -> Done:
    previous = vars(layer.module)[name]
    wanted = fitted(name, previous, value)
    changes, key = run_state.layers, (layer.name, name)

    def undo() -> None:
        changes.set_attribute(layer.name, layer.module, name, previous)

    run_state.agree()
    changes.set_attribute(layer.name, layer.module, name, wanted)
    found = vars(layer.module).get(name)
    if not same(found, wanted):
        undo()
        raise UserError(f"{dotted(*key)} was set to {wanted!r} but reads {found!r}; put back to {previous!r}")
    then = changes.stamps([key])

    def read() -> list[Any] | None:
        return [vars(layer.module).get(name)] if changes.stamps([key]) == then else None

    change = Change(name=dotted(*key), previous=previous, requested=value, effective=found)
    message = " ".join(filter(None, [_own_code(layer, name), layer.compiled()]))
    return Done(message, [change], expectations=[Expectation(change.name, [found], read)], undo=undo)


def _own_code(layer: Layer, name: str) -> str:
    """What cannot be promised: when a class that is not torch's reads an attribute."""
    if type(layer.module).__module__.split(".", 1)[0] == "torch" or name in PROBABILITIES | EPSILONS:
        return ""
    return f"it reads back as written; when {type(layer.module).__name__} uses it is up to that class."


def _write_tensor(run_state: RunState, layer: Layer, name: str, tensor: torch.Tensor, value: Any) -> Done:
    if tensor.is_floating_point():
        check_whole([tensor], layer.name)
    wanted = _fitted_tensor(dotted(layer.name, name), tensor, value)
    before = tensor.detach().clone()

    @torch.no_grad()
    def undo() -> None:
        tensor.copy_(before)

    run_state.agree()
    with torch.no_grad():
        tensor.copy_(wanted)
    if not torch.equal(tensor.detach(), wanted):
        undo()
        raise UserError(f"{dotted(layer.name, name)} does not read back as written; put back")
    run_state.layers.stamp_weights([tensor])
    change = Change(
        name=dotted(layer.name, name), previous=describe(before), requested=value, effective=describe(tensor.detach())
    )
    held = id(tensor) in held_by(run_state.adapter.optimizer())
    kept = "what the optimizer knows of it (momentum) is kept" if held else ""
    return Done("; ".join(filter(None, [layer.tied([tensor]), kept])), [change], undo=undo)


def _fitted_tensor(name: str, tensor: torch.Tensor, value: Any) -> torch.Tensor:
    """`value` in the shape and type of `tensor`: a number fills it, a list gives every element."""
    if isinstance(value, str) or (isinstance(value, bool) and tensor.dtype != torch.bool) or tensor.is_complex():
        raise UserError(f"{name} is a tensor of {_type(tensor)}; it takes a number, or a list of them", field="value")
    if isinstance(value, list) and len(value) != tensor.numel():
        raise UserError(
            f"{name} has {tensor.numel()} elements (shape {list(tensor.shape)}), not {len(value)}",
            field="value",
            allowed={"items": tensor.numel()},
        )
    exact = torch.tensor(value, dtype=torch.float64, device="cpu")
    try:
        wanted = exact.to(tensor.dtype)
    except RuntimeError as error:
        raise UserError(f"{name} is of {_type(tensor)}: {error}", field="value") from None
    fits = bool(wanted.isfinite().all()) if tensor.is_floating_point() else torch.equal(wanted.to(torch.float64), exact)
    if not fits:
        raise UserError(f"{value!r:.80} does not fit {_type(tensor)}, the type of {name}", field="value")
    shaped = wanted.reshape(tensor.shape) if isinstance(value, list) else wanted.expand(tensor.shape)
    return shaped.to(tensor.device)


def _type(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def describe(tensor: torch.Tensor) -> Any:
    """A tensor as an ack can carry it: its elements if they are few, else some figures."""
    if tensor.numel() <= LISTED_ELEMENTS:
        return tensor.tolist()
    wide = tensor.to(torch.float64)
    return {
        "elements": tensor.numel(),
        "mean": float(wide.mean()),
        "smallest": float(wide.min()),
        "largest": float(wide.max()),
    }


# -- reading -------------------------------------------------------------------------------------------------------


@applies(ReadModel)
def read_layers(run_state: RunState, record: CommandRecord, command: ReadModel) -> Outcome:
    layer = find_layer(run_state.adapter, command.layer_name)
    grads: Squares | None = None
    message = ""
    if command.norms:
        looked = _gradients(run_state)
        if isinstance(looked, NotYet):
            return looked
        grads, message = looked
        run_state.agree()  # of sharded weights all ranks measure together
    tree = read_model(
        layer.model,
        run_state.registry.layers,
        run_state.adapter.optimizer(),
        name=layer.name,
        norms=command.norms,
        grads=grads,
    )
    return Done(message, result=tree.model_dump(mode="json"))


def _gradients(run_state: RunState) -> tuple[Squares | None, str] | NotYet:
    """The gradients of the update just made, if they were monitored; else monitor the next one."""
    watch, step = run_state.gradients, run_state.step
    if watch is not None and watch.is_done:
        if watch.is_fresh(step):
            return watch.squares(), f"gradients as the update of step {step} used them, after clipping"
        watch = run_state.gradients = None
    reason = _no_update_comes(run_state)
    if reason:
        if watch is not None:
            watch.stop()
        run_state.gradients = None
        return None, f"no gradient norms: {reason}"
    if watch is None:
        watch = run_state.gradients = GradientMonitor(run_state.adapter.optimizer())
    watch.asked_step = step
    return NotYet()


def _no_update_comes(run_state: RunState) -> str:
    if run_state.standstill:
        return f"{run_state.standstill}, and gradients exist only while a step is made; ask again once it goes on"
    end = run_state.adapter.max_steps()
    if run_state.stop_reason is not None or (end is not None and run_state.step >= end):
        return "training ends with this step"
    if not callable(getattr(inner_optimizer(run_state.adapter.optimizer()), "register_step_pre_hook", None)):
        return f"{type(run_state.adapter.optimizer()).__name__} cannot be watched"
    return ""
