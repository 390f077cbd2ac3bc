"""Train GPT-2 on WikiText-2, with model, tokenizer and text from the Hugging Face hub (about 600 MB).

Needs `pip install -c constraints.txt '.[examples]'`. With `--tiny` nothing is downloaded: a GPT-2 of 2 layers x 64 and
a tokenizer of 512 tokens, made on the spot, on the language reference that Python ships for its own `help()`.

    python examples/gpt2_wikitext.py                  # fine-tune the published GPT-2
    python examples/gpt2_wikitext.py --from-scratch   # the same model with random weights
    python examples/gpt2_wikitext.py --tiny           # seconds on one core, offline
    python examples/gpt2_wikitext.py --tiny --lr 1  # far too high: watch the loss rise
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from datasets import Dataset, load_dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    default_data_collator,
    set_seed,
)

import agenttune

MODEL, DATA, DATA_PART = "openai-community/gpt2", "Salesforce/wikitext", "wikitext-2-raw-v1"
END = "<|endoftext|>"
TINY_VOCABULARY = 512
TINY_TRAIN_CHARACTERS, TINY_HELD_OUT_CHARACTERS = 200_000, 20_000


@dataclass(frozen=True)
class Scale:
    """What differs between the real thing and `--tiny`, unless an argument says otherwise."""

    block_tokens: int
    batch: int  # blocks a step
    lr: float
    steps: int
    eval_every: int  # steps


FULL = Scale(block_tokens=512, batch=8, lr=5e-5, steps=2000, eval_every=200)
TINY = Scale(block_tokens=64, batch=16, lr=3e-3, steps=80, eval_every=20)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train GPT-2 on WikiText-2.")
    parser.add_argument("--tiny", action="store_true", help="a small model and text made here; no download")
    parser.add_argument("--from-scratch", action="store_true", help="random weights instead of the published ones")
    parser.add_argument("--lr", type=float, help=f"learning rate; default {FULL.lr:g}, with --tiny {TINY.lr:g}")
    parser.add_argument("--steps", type=int, help=f"optimizer steps; default {FULL.steps}, with --tiny {TINY.steps}")
    parser.add_argument("--eval-every", type=int, help="steps between evaluations")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output-dir", default="runs/gpt2_wikitext", help="folder for checkpoints")
    parser.add_argument("--plain", action="store_true", help="use the plain Trainer, for comparison")
    args = parser.parse_args()
    scale = TINY if args.tiny else FULL
    for name in ("lr", "steps", "eval_every"):
        if getattr(args, name) is None:
            setattr(args, name, getattr(scale, name))
    return args


def from_hub(from_scratch: bool) -> tuple[Any, Any, Dataset, Dataset]:
    """Model, tokenizer, training texts and validation texts."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    if from_scratch:
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(MODEL))
    else:
        model = AutoModelForCausalLM.from_pretrained(MODEL)
    texts = load_dataset(DATA, DATA_PART)
    return model, tokenizer, texts["train"], texts["validation"]


def made_here() -> tuple[Any, Any, Dataset, Dataset]:
    """The same four, small, without a download."""
    from pydoc_data.topics import topics

    text = "\n\n".join(topics[name] for name in sorted(topics))
    held_out = text[-TINY_HELD_OUT_CHARACTERS:]
    train = text[:-TINY_HELD_OUT_CHARACTERS][:TINY_TRAIN_CHARACTERS]
    tokenizer = tiny_tokenizer(train)
    shape = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=TINY.block_tokens,
        n_embd=64,
        n_layer=2,
        n_head=4,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return GPT2LMHeadModel(shape), tokenizer, paragraphs(train), paragraphs(held_out)


def tiny_tokenizer(text: str) -> PreTrainedTokenizerFast:
    """A tokenizer of GPT-2's kind (byte-level BPE), trained on a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TINY_VOCABULARY,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END)


def paragraphs(text: str) -> Dataset:
    return Dataset.from_dict({"text": [part + "\n" for part in text.split("\n\n") if part.strip()]})


def into_blocks(texts: Dataset, tokenizer: Any, block_tokens: int) -> Dataset:
    """Texts, one after the other, cut into blocks of equal length: no token is padding, every one counts."""

    def cut(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        ids = list(chain.from_iterable(tokenizer(batch["text"], verbose=False)["input_ids"]))
        last = len(ids) - block_tokens + 1
        blocks = [ids[start : start + block_tokens] for start in range(0, last, block_tokens)]
        return {"input_ids": blocks, "labels": blocks}  # the model shifts the labels itself

    return texts.map(cut, batched=True, remove_columns=texts.column_names)


def main() -> None:
    args = arguments()
    scale = TINY if args.tiny else FULL
    if args.tiny:
        torch.set_num_threads(1)  # more do not help a model this small
    set_seed(args.seed)
    model, tokenizer, train, validation = made_here() if args.tiny else from_hub(args.from_scratch)
    trainer_class = Trainer if args.plain else agenttune.make_interactive(Trainer)
    trainer = trainer_class(
        model=model,
        args=TrainingArguments(
            output_dir=args.output_dir,
            max_steps=args.steps,
            per_device_train_batch_size=scale.batch,
            per_device_eval_batch_size=scale.batch,
            learning_rate=args.lr,
            lr_scheduler_type="constant_with_warmup",
            warmup_steps=args.steps // 20,
            eval_strategy="steps",
            eval_steps=args.eval_every,
            logging_steps=10,
            save_strategy="no",
            seed=args.seed,
            data_seed=args.seed,
            fp16=torch.cuda.is_available() and not args.tiny,
            use_cpu=args.tiny,
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=into_blocks(train, tokenizer, scale.block_tokens),
        eval_dataset=into_blocks(validation, tokenizer, scale.block_tokens),
        processing_class=tokenizer,  # saved beside the weights
        data_collator=default_data_collator,
    )
    trainer.train()
    loss = trainer.evaluate()["eval_loss"]
    print(f"final evaluation loss: {loss:.4f} nats a token, perplexity {math.exp(min(loss, 700)):.1f}")


if __name__ == "__main__":
    main()
