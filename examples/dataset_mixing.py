"""Train GPT-2 on a mixture of texts whose weights are changed, and whose sources are replaced, while it trains.

Needs `pip install -c constraints.txt '.[examples]'`. By default the sources are Wikipedia articles and school maths
from the Hugging Face hub (about 600 MB with the model); with `--tiny` they are Python's own help text, Python code and
made-up sums, with a small model, and nothing is downloaded.

    python examples/dataset_mixing.py --tiny

The log has a loss for each source (`loss/help`, `loss/code`). What can be asked of the running training, by
`POST /api/v1/runs/latest/commands` with the body `{"command": ...}`:

    {"kind": "update_dataset_runtime_hyperparameters", "values": {"weights": {"help": 0.9, "code": 0.1}}}
    {"kind": "update_dataset_runtime_hyperparameters", "values": {"word_dropout": 0.1}}
    {"kind": "update_dataset", "values": {"texts": ["help", "code", "sums"]}}
    {"kind": "update_dataset", "values": {"block_tokens": 32}}

The first two are runtime parameters, in force from the next batch on. The last two build the dataset anew, from its
constructor; steps, optimizer and schedule go on.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from datasets import Dataset, concatenate_datasets, load_dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
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

MODEL = "openai-community/gpt2"
END = "<|endoftext|>"
TINY_VOCABULARY = 512
TINY_CHARACTERS = 60_000  # of each source; the last tenth is held out
EVALUATION_BLOCKS = 100  # of each source, at most

LoadText = Callable[[str, str], list[str]]
"""Gives the texts of a source, by its name and `train` or `held_out`."""


@dataclass(frozen=True)
class Scale:
    """What differs between the real thing and `--tiny`, unless an argument says otherwise."""

    block_tokens: int
    batch: int  # blocks a step
    lr: float
    steps: int
    eval_every: int  # steps


FULL = Scale(block_tokens=256, batch=8, lr=5e-5, steps=2000, eval_every=200)
TINY = Scale(block_tokens=64, batch=16, lr=3e-3, steps=80, eval_every=20)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train GPT-2 on a mixture of texts.")
    parser.add_argument("--tiny", action="store_true", help="a small model and texts made here; no download")
    parser.add_argument("--texts", nargs="+", help="sources to begin with; default: the first two")
    parser.add_argument("--lr", type=float, help=f"learning rate; default {FULL.lr:g}, with --tiny {TINY.lr:g}")
    parser.add_argument("--steps", type=int, help=f"optimizer steps; default {FULL.steps}, with --tiny {TINY.steps}")
    parser.add_argument("--eval-every", type=int, help="steps between evaluations")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output-dir", default="runs/dataset_mixing", help="folder for checkpoints")
    parser.add_argument("--plain", action="store_true", help="use the plain Trainer, for comparison")
    args = parser.parse_args()
    scale = TINY if args.tiny else FULL
    for name in ("lr", "steps", "eval_every"):
        if getattr(args, name) is None:
            setattr(args, name, getattr(scale, name))
    return args


# -- sources -------------------------------------------------------------------------------------------------------


def from_hub(name: str, part: str) -> list[str]:
    """Texts from the hub."""
    if name == "wikitext":
        split = {"train": "train", "held_out": "validation"}[part]
        return list(load_dataset("Salesforce/wikitext", "wikitext-2-raw-v1", split=split)["text"])
    split = {"train": "train", "held_out": "test"}[part]
    if name == "gsm8k":
        rows = load_dataset("openai/gsm8k", "main", split=split)
        return [f"{row['question']}\n{row['answer']}{END}" for row in rows]
    if name == "imdb":
        return [text + END for text in load_dataset("stanfordnlp/imdb", split=split)["text"]]
    raise ValueError(f"no text {name!r}; there are: wikitext, gsm8k, imdb")


def made_here(name: str, part: str) -> list[str]:
    """Texts that need no download."""
    if name not in TINY_TEXTS:
        raise ValueError(f"no text {name!r}; there are: {', '.join(TINY_TEXTS)}")
    text = TINY_TEXTS[name]()[:TINY_CHARACTERS]
    border = len(text) * 9 // 10
    return [text[:border] if part == "train" else text[border:]]


def help_text() -> str:
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))


def code_text() -> str:
    import inspect

    return inspect.getsource(argparse)


def sums_text() -> str:
    source = random.Random(0)
    pairs = [(source.randrange(100), source.randrange(100)) for _ in range(4000)]
    return "".join(f"{a} + {b} = {a + b}\n" for a, b in pairs)


TINY_TEXTS = {"help": help_text, "code": code_text, "sums": sums_text}


# -- the mixture ---------------------------------------------------------------------------------------------------


class TextMixture(agenttune.Mixture):
    """Blocks of tokens, drawn from several texts by `weights`.

    The constructor's plain arguments are initialization parameters: another value builds the mixture anew.

    Args:
        texts: Names of the sources; they begin with equal weights.
        block_tokens: Length of a block.
        load: Gives the texts of a source.
        tokenizer: Makes tokens of them.
        seed: What is drawn depends on it.
    """

    word_dropout = 0.0
    """Part of the tokens that the model gets to see as an end of text (word dropout, Bowman et al. 2016)."""

    def __init__(self, texts: list[str], block_tokens: int, load: LoadText, tokenizer: Any, seed: int = 0) -> None:
        sources = {name: into_blocks(load(name, "train"), tokenizer, block_tokens) for name in texts}
        super().__init__(sources, weights=dict.fromkeys(texts, 1.0), seed=seed)
        self.end = tokenizer.eos_token_id

    def validate_word_dropout(self, value: float) -> str | None:
        return None if 0 <= value < 1 else "it is a part of all tokens, at least 0 and less than 1"

    def __getitem__(self, index: int) -> Any:
        block = super().__getitem__(index)
        if self.word_dropout > 0:
            source = random.Random(f"{self.seed} {self.epoch} {index}")  # the same again after a return to a checkpoint
            ids = block["input_ids"]
            block["input_ids"] = [self.end if source.random() < self.word_dropout else token for token in ids]
        return block


InteractiveTexts = agenttune.make_interactive_dataset(TextMixture, runtime=["word_dropout"])
"""A mixture has `weights` already; this adds a runtime parameter of our own."""


def into_blocks(texts: list[str], tokenizer: Any, block_tokens: int) -> Dataset:
    """Texts, one after the other, cut into blocks of equal length."""
    ids = list(chain.from_iterable(tokenizer([text for text in texts if text], verbose=False)["input_ids"]))
    last = len(ids) - block_tokens + 1
    blocks = [ids[start : start + block_tokens] for start in range(0, last, block_tokens)]
    return Dataset.from_dict({"input_ids": blocks, "labels": blocks})  # the model shifts the labels itself


def held_out(names: list[str], load: LoadText, tokenizer: Any, block_tokens: int) -> Dataset:
    """As much of each source, whatever the mixture's weights become: what the evaluation loss is measured on."""
    parts = [into_blocks(load(name, "held_out"), tokenizer, block_tokens) for name in names]
    return concatenate_datasets([part.select(range(min(len(part), EVALUATION_BLOCKS))) for part in parts])


# -- model and training --------------------------------------------------------------------------------------------


def tiny_model() -> tuple[Any, Any]:
    """A GPT-2 of 2 layers x 64 with random weights, and a tokenizer (byte-level BPE) trained on all sources."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TINY_VOCABULARY,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(chain.from_iterable(made_here(name, "train") for name in TINY_TEXTS), trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END)
    end = wrapped.eos_token_id
    shape = GPT2Config(
        vocab_size=len(wrapped),
        n_positions=TINY.block_tokens,
        n_embd=64,
        n_layer=2,
        n_head=4,
        bos_token_id=end,
        eos_token_id=end,
    )
    return GPT2LMHeadModel(shape), wrapped


def main() -> None:
    args = arguments()
    scale = TINY if args.tiny else FULL
    if args.tiny:
        torch.set_num_threads(1)  # more do not help a model this small
    set_seed(args.seed)
    load: LoadText = made_here if args.tiny else from_hub
    if args.tiny:
        model, tokenizer = tiny_model()
    else:
        model, tokenizer = AutoModelForCausalLM.from_pretrained(MODEL), AutoTokenizer.from_pretrained(MODEL)
    names = args.texts or (["help", "code"] if args.tiny else ["wikitext", "gsm8k"])
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
        train_dataset=InteractiveTexts(names, scale.block_tokens, load, tokenizer, seed=args.seed),
        eval_dataset=held_out(names, load, tokenizer, scale.block_tokens),
        processing_class=tokenizer,  # saved beside the weights
        data_collator=default_data_collator,
    )
    trainer.train()
    loss = trainer.evaluate()["eval_loss"]
    print(f"final evaluation loss: {loss:.4f} nats a token, perplexity {math.exp(min(loss, 700)):.1f}")


if __name__ == "__main__":
    main()
