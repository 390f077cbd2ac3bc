"""A small GPT-2 as practitioners train one: rates by layer, warm-up and cosine, accumulation, evaluations, saves."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch.optim import AdamW
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, get_cosine_schedule_with_warmup

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import agenttune
from examples.char_gpt import BLOCK, read_text, split

STEPS = 240
WARMUP_STEPS = 24
RATES = {"embeddings": 1e-4, "blocks": 1e-3, "head": 2e-3}


def groups(model: Any) -> list[dict[str, Any]]:
    """Embeddings, matrices and everything else: three groups, of which one decays."""
    named = list(model.named_parameters())
    embedded = [p for n, p in named if "wte" in n or "wpe" in n]
    matrices = [p for n, p in named if p.ndim > 1 and not ("wte" in n or "wpe" in n)]
    return [
        {"params": embedded, "lr": RATES["embeddings"], "weight_decay": 0.0},
        {"params": matrices, "lr": RATES["blocks"], "weight_decay": 0.1},
        {"params": [p for n, p in named if p.ndim == 1], "lr": RATES["head"], "weight_decay": 0.0},
    ]


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    train, validation, vocabulary = split(read_text(None)[:200_000])
    shape = GPT2Config(vocab_size=vocabulary, n_positions=BLOCK, n_embd=64, n_layer=2, n_head=4)
    model = GPT2LMHeadModel(shape)
    optimizer = AdamW(groups(model))
    trainer = agenttune.make_interactive(Trainer)(
        model=model,
        args=TrainingArguments(
            output_dir="out",
            max_steps=STEPS,
            per_device_train_batch_size=8,
            gradient_accumulation_steps=2,
            eval_strategy="steps",
            eval_steps=40,
            save_strategy="steps",
            save_steps=80,
            logging_steps=10,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=train,
        eval_dataset=validation,
        optimizers=(optimizer, get_cosine_schedule_with_warmup(optimizer, WARMUP_STEPS, STEPS)),
    )
    trainer.train()


if __name__ == "__main__":
    main()
