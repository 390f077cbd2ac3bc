"""Language from two sources, whose shares in training may shift."""

from __future__ import annotations

import torch

from agenttune.bench.tasks.data import Rows, blocks, code_text, help_text
from agenttune.bench.tasks.hf_training import HfTask, Parts
from agenttune.bench.tasks.injection import Injector
from agenttune.bench.tasks.injection.mixture import WeightsShift
from agenttune.bench.tasks.language import BATCH, LENGTH, small_gpt
from agenttune.bench.training import Split, Training
from agenttune.trainer.datasets import Mixture

HELD_OUT = 400
"""Blocks of each source to evaluate on, half of them in the end only."""
_TEXTS = {"prose": help_text, "code": code_text}


class TextMixture(HfTask):
    """Predicts the next character of English and of Python code, as much of the one as of the other."""

    def parts(self, seed: int, split: Split) -> Parts:
        sources = {name: blocks(text(), LENGTH, split) for name, text in _TEXTS.items()}
        train = {name: rows.between(0, len(rows) - HELD_OUT) for name, rows in sources.items()}
        held_out = [rows.between(len(rows) - HELD_OUT, len(rows)).columns["input_ids"] for rows in sources.values()]
        both = torch.cat(held_out)
        model = small_gpt(2, 32) if split == "development" else small_gpt(1, 48)
        return Parts(
            model,
            Mixture(train, weights=dict.fromkeys(train, 0.5), seed=seed),
            Rows({"input_ids": both, "labels": both}),
            batch_size=BATCH,
        )

    def injector(self, training: Training, parts: Parts) -> Injector:
        fault = training.fault
        if fault is not None and fault.kind == "mixture_shift":
            return WeightsShift(fault, parts.model, training.seed, parts.train_dataset)
        return super().injector(training, parts)
