"""Training a layer or not: a frozen layer keeps its weights to the bit."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from agenttune.errors import NotSupported, UserError
from agenttune.protocol.proposals import Change
from agenttune.protocol.text import some
from agenttune.trainer.commands.outcomes import Done, Expectation
from agenttune.trainer.distributed.processes import is_distributed
from agenttune.trainer.layers.layer import Layer
from agenttune.trainer.layers.layer_changes import FLAG, dotted
from agenttune.trainer.layers.model_tree import held_by
from agenttune.trainer.layers.permissions import check_arguments
from agenttune.trainer.run_state import RunState


def freeze_or_train(run_state: RunState, layer: Layer, params: dict[str, Any]) -> Done:
    """`requires_grad_`: a layer that is not trained keeps its weights to the bit."""
    check_arguments("requires_grad_", lambda requires_grad=True: None, params, {"requires_grad": bool})
    wanted = bool(params.get("requires_grad", True))
    parameters = layer.parameters()
    if wanted:
        _check_trainable(run_state, layer, parameters)
    else:
        _check_freezable(run_state, layer, parameters)
    previous, flags = _flag(parameters), {name: p.requires_grad for name, p in parameters.items()}
    run_state.agree()
    for name, parameter in parameters.items():
        run_state.layers.set_flag(name, parameter, wanted)
    change = Change(name=dotted(layer.name, FLAG), previous=previous, requested=wanted, effective=_flag(parameters))
    expectations = [_expect_flags(run_state, change.name, parameters, wanted)]
    if not wanted:
        expectations.append(_expect_weights(run_state, layer, parameters))
    count = sum(p.numel() for p in parameters.values())
    verb = "trained" if wanted else "no longer trained; what the optimizer knows of them is kept for a return"

    def undo() -> None:
        for name, parameter in parameters.items():
            run_state.layers.set_flag(name, parameter, flags[name])

    message = f"{count} parameters are {verb}. {layer.compiled()}".strip()
    return Done(message, [change], expectations=expectations, undo=undo)


def _flag(parameters: dict[str, nn.Parameter]) -> bool | str:
    flags = {p.requires_grad for p in parameters.values()}
    return flags.pop() if len(flags) == 1 else "mixed"


def _expect_flags(run_state: RunState, name: str, parameters: dict[str, nn.Parameter], wanted: bool) -> Expectation:
    keys = [(p, FLAG) for p in parameters]
    then = run_state.layers.stamps(keys)

    def read() -> list[Any] | None:
        return [_flag(parameters)] if run_state.layers.stamps(keys) == then else None

    return Expectation(name, [wanted], read)


def _expect_weights(run_state: RunState, layer: Layer, parameters: dict[str, nn.Parameter]) -> Expectation:
    """A few steps later the very bytes must still be there."""
    keys = [(p, FLAG) for p in parameters]
    tensors = list(parameters.values())
    then, writes = run_state.layers.stamps(keys), run_state.layers.weight_stamps(tensors)

    def read() -> list[Any] | None:
        untouched = run_state.layers.stamps(keys) == then and run_state.layers.weight_stamps(tensors) == writes
        return [_fingerprint(tensors)] if untouched else None

    return Expectation(dotted(layer.name, "weights"), [_fingerprint(tensors)], read)


def _fingerprint(tensors: list[nn.Parameter]) -> str:
    """Tells whether a byte has changed (not which; two changes that cancel out go unseen)."""
    sums = [t.detach().contiguous().view(-1).view(torch.uint8).sum(dtype=torch.int64) for t in tensors if t.numel()]
    return ",".join(f"{int(s):x}" for s in torch.stack([s.cpu() for s in sums])) if sums else ""


def _check_freezable(run_state: RunState, layer: Layer, parameters: dict[str, nn.Parameter]) -> None:
    ours = {id(p) for p in parameters.values()}
    held = held_by(run_state.adapter.optimizer())
    left = [p for p in layer.model.parameters() if p.requires_grad and id(p) in held and id(p) not in ours]
    if not left:
        raise UserError(
            f"nothing would be left to train without {layer.name or 'the model'!r}; leave some layer trainable, or "
            "use pause_training",
            field="layer_name",
        )
    _check_checkpointing(layer, ours)
    if not is_distributed():
        return
    wrappers = _wrappers(run_state.adapter)
    spread = [w for w in wrappers if isinstance(w, DistributedDataParallel)]
    if spread and all(w.find_unused_parameters and not w.static_graph for w in spread):
        return
    found = ", ".join(f"{type(w).__name__} {getattr(w, 'find_unused_parameters', '')}".strip() for w in wrappers)
    raise NotSupported(
        "in a run of several processes, a layer can be frozen live only under DDP with find_unused_parameters=True "
        "(ddp_find_unused_parameters of TrainingArguments; of a loop of your own, give agenttune.session the DDP "
        "model): otherwise the next step waits for its gradients; "
        f"found: {found or 'no wrapper'}"
    )


def _wrappers(adapter: Any) -> list[Any]:
    """The models that a loop runs, as wrapped for several processes."""
    trainer = getattr(adapter, "trainer", None)
    of_lightning = getattr(getattr(trainer, "strategy", None), "model", None)
    prepared = getattr(getattr(trainer, "accelerator", None), "_models", [])
    models = [getattr(adapter, "wrapped", None), getattr(trainer, "model_wrapped", None), of_lightning, *prepared]
    # torch.compile puts a module of its own around DDP's, with this name inside.
    bare = [getattr(m, "_orig_mod", m) for m in models if m is not None]
    return list({id(m): m for m in bare}.values())


def _check_checkpointing(layer: Layer, ours: set[int]) -> None:
    """Reentrant checkpointing gives no gradients at all where nothing that enters a block needs one."""
    embeddings = getattr(layer.model, "get_input_embeddings", lambda: None)()
    if embeddings is None:
        return
    on = [m for m in layer.model.modules() if getattr(m, "gradient_checkpointing", False) is True]
    functions = [getattr(m, "_gradient_checkpointing_func", None) for m in on]
    reentrant = any(getattr(f, "keywords", {}).get("use_reentrant", False) for f in functions)
    if reentrant and any(id(p) in ours for p in embeddings.parameters()):
        raise NotSupported(
            "with reentrant gradient checkpointing nothing would be trained once the embeddings are frozen; start "
            "with gradient_checkpointing_kwargs={'use_reentrant': False}"
        )


def _check_trainable(run_state: RunState, layer: Layer, parameters: dict[str, nn.Parameter]) -> None:
    held = held_by(run_state.adapter.optimizer())
    outside = [name for name, p in parameters.items() if id(p) not in held]
    if outside:
        raise UserError(
            f"the optimizer does not hold {some(outside)}: it was built without them, as they were frozen then, "
            "and would never update them; build the trainer with them trainable and freeze them by command, or call "
            "optimizer.add_param_group in your own code",
            field="layer_name",
        )
    fixed = [name for name, p in parameters.items() if not p.is_floating_point()]
    if fixed:
        raise NotSupported(f"{some(fixed)} are quantized and cannot be trained")
    late = [n for n, p in parameters.items() if not p.requires_grad and not run_state.layers.was_trained(n)]
    if is_distributed() and late:
        raise NotSupported(
            f"{some(late)} were frozen when the model was wrapped for several processes, which would not share "
            "their gradients; start with them trainable and freeze them by command"
        )
