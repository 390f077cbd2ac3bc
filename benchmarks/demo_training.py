"""The training that `record_demo.py` records: a character GPT by plain SGD, whose rate warms up until it is too high.

The loss falls for a while and then blows up, as the rate passes what the network bears. Gradients are not clipped.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, set_seed

import agenttune

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
from char_gpt import BATCH, BLOCK, read_text, split  # type: ignore[import-not-found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lr", type=float, default=2.0)
    parser.add_argument("--warmup-steps", type=int, default=300)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--plain", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    set_seed(0)
    train, validation, vocabulary = split(read_text(None))
    shape = GPT2Config(
        vocab_size=vocabulary,
        n_positions=BLOCK,
        n_embd=64,
        n_layer=2,
        n_head=4,
        activation_function="gelu_pytorch_tanh",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=None,
    )
    trainer_class = Trainer if args.plain else agenttune.make_interactive(Trainer)
    trainer = trainer_class(
        model=GPT2LMHeadModel(shape),
        args=TrainingArguments(
            output_dir="out",
            max_steps=args.steps,
            per_device_train_batch_size=BATCH,
            per_device_eval_batch_size=64,
            optim="sgd",
            optim_args="momentum=0.9",
            learning_rate=args.lr,
            max_grad_norm=0.0,
            lr_scheduler_type="constant_with_warmup",
            warmup_steps=args.warmup_steps,
            eval_strategy="steps",
            eval_steps=20,
            logging_steps=10,
            save_strategy="no",
            seed=0,
            data_seed=0,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=train,
        eval_dataset=validation,
    )
    trainer.train()


if __name__ == "__main__":
    main()
