"""Facts of a training from its model, optimizer and data loader: sizes, ties, and the loss of a blind guess."""

from __future__ import annotations

import math
from typing import Any

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from agenttune.protocol.run_facts import RunFacts
from agenttune.trainer.lr.optimizers import inner_optimizer

MOST_TIES = 4
"""Ties that are told (guess)."""
DROPS_NEARLY_ALL, MOST_DROPPING = 0.95, 16
"""A dropout that nobody wants: 0.5 is usual, 0.8 the highest in use (guess); and layers of such that are told."""
OVER_TOKENS = ("ForCausalLM", "LMHeadModel", "ForMaskedLM", "ForConditionalGeneration")
OVER_LABELS = tuple(f"For{task}Classification" for task in ("Sequence", "Token", "Image", "Audio"))
"""How transformers ends the names of models whose loss is a cross-entropy over tokens, or over labels."""


def model_facts(model: nn.Module | None) -> dict[str, Any]:
    """Fields of `RunFacts` that a model tells."""
    if model is None:
        return {}
    parameters = list(model.parameters())
    return {
        "model": type(model).__name__,
        "parameters": sum(p.numel() for p in parameters),
        "trainable": sum(p.numel() for p in parameters if p.requires_grad),
        "tied": _tied(model),
        "dropping": _dropping(model),
        **chance_of(model),
    }


def optimizer_name(optimizer: Any) -> str:
    """Class name of an optimizer, without what is wrapped around it."""
    return type(inner_optimizer(optimizer)).__name__


def _tied(model: nn.Module) -> list[str]:
    """Weights with more than one name, as `first = second`."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [" = ".join(same[:3]) for same in names.values() if len(same) > 1][:MOST_TIES]


def _dropping(model: nn.Module) -> dict[str, float]:
    """Layers of dropout through which next to nothing comes, with their part."""
    layers = {name: module.p for name, module in model.named_modules() if isinstance(module, _DropoutNd)}
    return dict([(name, p) for name, p in layers.items() if p >= DROPS_NEARLY_ALL][:MOST_DROPPING])


def chance_of(model: nn.Module) -> dict[str, Any]:
    """The loss of a guess that knows nothing: as the model's class says what its loss is, or its last layer hints."""
    adapted: Any = model  # PEFT's models hold the one that was adapted
    inner = adapted.get_base_model() if hasattr(adapted, "get_base_model") else adapted
    config: Any = getattr(inner, "config", None)
    name = type(inner).__name__
    if config is None:
        return _last_layer(model)
    if any(part in name for part in OVER_TOKENS):
        text = config.get_text_config() if hasattr(config, "get_text_config") else config
        return _guess(getattr(text, "vocab_size", 0), "a uniform guess over {} tokens")
    if any(part in name for part in OVER_LABELS):
        labels, problem = int(getattr(config, "num_labels", 0)), getattr(config, "problem_type", None)
        if problem == "multi_label_classification":
            return {"chance_loss": math.log(2), "chance_of": "a coin for each label"}
        is_regression = problem == "regression" or (labels == 1 and "Sequence" in name)
        return {} if is_regression else _guess(labels, "a uniform guess over {} labels")
    return {}


def _last_layer(model: nn.Module) -> dict[str, Any]:
    """What the last layer of a model of the user's own hints, as if its loss were a cross-entropy over its outputs.

    Of an autoencoder, a density or a contrastive loss it is wrong: who asks for it compares it with the first loss.
    """
    wide = [module for module in model.modules() if isinstance(module, nn.Linear)]
    outputs = wide[-1].out_features if wide else 0
    found = _guess(outputs, "a uniform guess over the last layer's {} outputs; the loss began there")
    return {**found, "chance_is_guess": True} if found else {}


def _guess(choices: int, words: str) -> dict[str, Any]:
    return {"chance_loss": math.log(choices), "chance_of": words.format(choices)} if choices and choices > 1 else {}


def length_of(sized: object) -> int | None:
    """How many there are in it; None for a stream."""
    try:
        return len(sized)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):
        return None


def loader_facts(loader: Any, accumulation: int = 1) -> dict[str, Any]:
    """Fields of `RunFacts` that a data loader tells."""
    batches, size = length_of(loader), getattr(loader, "batch_size", None)
    return {
        "batch_size": size if isinstance(size, int) else None,
        "samples": length_of(getattr(loader, "dataset", None)),
        "epoch_steps": max(1, math.ceil(batches / max(1, accumulation))) if batches else None,
    }


def facts_of(optimizer: Any, model: nn.Module | None, **given: Any) -> RunFacts:
    """All that is known of a training."""
    return RunFacts.model_validate({"optimizer": optimizer_name(optimizer), **model_facts(model), **given})
