"""One loss a sample, of what a model put out: what its own loss is the mean of."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

IGNORED = -100
"""The label of a token that no loss counts, in PyTorch and transformers."""
CHUNK_ELEMENTS = 1 << 24
"""Logits made into 32-bit floats at a time: 64 MiB (guess: small beside what training itself holds)."""


@dataclass(frozen=True)
class LossKind:
    """How a model's loss is made of its output.

    Attributes:
        shifts: A token's label stands one place before it, as in causal language models.
        regresses: Several numbers a sample are targets, not independent yes and no.
    """

    shifts: bool
    regresses: bool


def kind_of_loss(model: Any) -> LossKind:
    """Read off the model's class and configuration, under wrappers such as DDP's and adapters such as PEFT's."""
    while hasattr(model, "module"):
        model = model.module
    get_base = getattr(model, "get_base_model", None)
    model = get_base() if callable(get_base) else model
    config = getattr(model, "config", None)
    problem = getattr(config, "problem_type", None)
    return LossKind(_is_causal(model), problem == "regression")


def _is_causal(model: Any) -> bool:
    """By the list that transformers' own label smoothing goes by; a model not of transformers does not shift."""
    if "transformers" not in sys.modules:  # a plain loop needs no transformers
        return False
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    causal = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    return any(base.__name__ in causal for base in type(model).__mro__)


def sample_losses(output: Any, batch: Mapping[str, Any], kind: LossKind) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed loss and number of targets of each sample.

    Args:
        output: With `logits`: [batch, seq, classes], [batch, classes] or [batch].
        batch: With `labels`: [batch, seq], [batch, classes] or [batch].
        kind: See `kind_of_loss`.

    Raises:
        ValueError: There are no logits or labels, or their shapes do not go together.
    """
    logits, labels = _logits(output), _labels(batch)
    labels = labels.to(logits.device)
    if logits.dim() == 3 and not labels.is_floating_point():
        return _token_losses(logits, labels, kind.shifts)
    ones = torch.ones(len(logits), device=logits.device)
    if logits.dim() == 2 and logits.shape[1] > 1 and not labels.is_floating_point() and labels.dim() == 1:
        return functional.cross_entropy(logits.float(), labels, reduction="none"), ones
    flat, wanted = logits.reshape(len(logits), -1).float(), labels.reshape(len(labels), -1).float()
    if flat.shape != wanted.shape:
        raise ValueError(f"logits of shape {tuple(logits.shape)} do not go with labels of shape {tuple(labels.shape)}")
    if flat.shape[1] == 1 or kind.regresses:
        return ((flat - wanted) ** 2).mean(dim=1), ones
    return functional.binary_cross_entropy_with_logits(flat, wanted, reduction="none").mean(dim=1), ones


def _token_losses(logits: Any, labels: Any, shifts: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums of the tokens' losses and their number, each [batch]; logits [batch, seq, classes], labels [batch, seq]."""
    if shifts:
        logits, labels = logits[:, :-1], labels[:, 1:]
    if logits.shape[:2] != labels.shape:
        raise ValueError(f"logits for {tuple(logits.shape[:2])} tokens do not go with labels {tuple(labels.shape)}")
    rows = max(1, CHUNK_ELEMENTS // max(1, logits[0].numel()))
    sums = [
        functional.cross_entropy(part.float().flatten(0, 1), wanted.flatten(), ignore_index=IGNORED, reduction="none")
        .view(wanted.shape)
        .sum(dim=1)
        for part, wanted in zip(logits.split(rows), labels.split(rows), strict=True)
    ]
    return torch.cat(sums), (labels != IGNORED).sum(dim=1)


def _logits(output: Any) -> torch.Tensor:
    found = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if found is None and isinstance(output, (tuple, list)) and len(output) > 1:
        found = output[1]
    if not isinstance(found, torch.Tensor) or found.dim() == 0:
        raise ValueError("the model's output has no logits")
    return found.detach()


def _labels(batch: Mapping[str, Any]) -> torch.Tensor:
    found = next((batch[name] for name in ("labels", "label", "label_ids") if name in batch), None)
    if not isinstance(found, torch.Tensor):
        raise ValueError("the batch has no labels")
    return found
