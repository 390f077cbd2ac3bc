"""Train a small GPT on characters: the script that `config.yaml` runs.

By default the text is the language reference that Python ships for its own `help()`, so nothing is downloaded.

    python examples/char_gpt.py --lr 3e-3 --plain    # the usual Trainer
    python examples/char_gpt.py --lr 3e-3            # the same run, open to an agent
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, set_seed

import agenttune

BLOCK = 64  # characters a sample
BATCH = 16  # samples a step
WEIGHT_DECAY = 1.0  # strong, so that weights which a far too high rate has blown up can shrink again (measured)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a character-level GPT.")
    parser.add_argument("--text", type=Path, help="a text file (UTF-8); default: the text of Python's own help()")
    parser.add_argument("--lr", type=float, default=3e-3, help="learning rate")
    parser.add_argument("--schedule", default="constant", help="learning-rate schedule: linear, cosine, ...")
    parser.add_argument("--warmup-steps", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1500, help="optimizer steps")
    parser.add_argument("--eval-every", type=int, default=100, help="steps between evaluations")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; more do not help a model this small")
    parser.add_argument("--out", default="runs/char_gpt", help="folder for checkpoints")
    parser.add_argument("--plain", action="store_true", help="use the plain Trainer, for comparison")
    return parser.parse_args()


class Blocks(Dataset[dict[str, torch.Tensor]]):
    """A text cut into blocks of BLOCK characters; a model learns to predict each next character."""

    def __init__(self, codes: torch.Tensor) -> None:
        self.blocks = codes[: len(codes) // BLOCK * BLOCK].view(-1, BLOCK)

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        block = self.blocks[index]
        return {"input_ids": block, "labels": block}  # GPT2LMHeadModel shifts the labels itself


def read_text(path: Path | None) -> str:
    if path is not None:
        return path.read_text(encoding="utf-8")
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))


def split(text: str) -> tuple[Blocks, Blocks, int]:
    """Training and validation blocks (the last tenth, at most 20,000 characters), and the vocabulary's size."""
    alphabet = {character: code for code, character in enumerate(sorted(set(text)))}
    codes = torch.tensor([alphabet[character] for character in text])
    held_out = min(len(codes) // 10, 20_000)
    if held_out < BLOCK:
        raise SystemExit(f"the text has {len(text)} characters; at least {10 * BLOCK} are needed")
    return Blocks(codes[:-held_out]), Blocks(codes[-held_out:]), len(alphabet)


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    set_seed(args.seed)
    train, validation, vocabulary = split(read_text(args.text))
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
            output_dir=args.out,
            max_steps=args.steps,
            per_device_train_batch_size=BATCH,
            per_device_eval_batch_size=64,
            learning_rate=args.lr,
            weight_decay=WEIGHT_DECAY,
            lr_scheduler_type=args.schedule,
            warmup_steps=args.warmup_steps,
            eval_strategy="steps",
            eval_steps=args.eval_every,
            logging_steps=10,
            save_strategy="no",
            seed=args.seed,
            data_seed=args.seed,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=train,
        eval_dataset=validation,
    )
    trainer.train()
    print(f"final evaluation loss: {trainer.evaluate()['eval_loss']:.4f} nats a character")


if __name__ == "__main__":
    main()
