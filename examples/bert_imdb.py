"""Fine-tune BERT to tell good film reviews from bad ones (IMDb), with model and data from the hub (about 600 MB).

Needs `pip install -c constraints.txt '.[examples]'`. With `--tiny` nothing is downloaded: a BERT of 2 layers x 64 with
random weights, a WordPiece tokenizer and reviews that are put together from a few dozen phrases.

    python examples/bert_imdb.py                  # the published BERT on 25,000 reviews
    python examples/bert_imdb.py --tiny           # seconds on one core, offline
    python examples/bert_imdb.py --tiny --lr 0.3  # far too high: the loss stays at ln 2 = 0.69 or above, a coin's
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset, load_dataset
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    set_seed,
)

import agenttune

MODEL, DATA = "google-bert/bert-base-uncased", "stanfordnlp/imdb"
HELD_OUT = 2000  # of the 25,000 test reviews: enough for an accuracy to within 1 %
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


@dataclass(frozen=True)
class Scale:
    """What differs between the real thing and `--tiny`, unless an argument says otherwise."""

    longest: int  # tokens of a review; the rest is cut off
    batch: int  # reviews a step
    lr: float
    steps: int
    eval_every: int  # steps


FULL = Scale(longest=256, batch=16, lr=2e-5, steps=1500, eval_every=150)
TINY = Scale(longest=64, batch=16, lr=1e-3, steps=100, eval_every=25)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Fine-tune BERT on IMDb.")
    parser.add_argument("--tiny", action="store_true", help="a small model and reviews made here; no download")
    parser.add_argument("--lr", type=float, help=f"learning rate; default {FULL.lr:g}, with --tiny {TINY.lr:g}")
    parser.add_argument("--steps", type=int, help=f"optimizer steps; default {FULL.steps}, with --tiny {TINY.steps}")
    parser.add_argument("--eval-every", type=int, help="steps between evaluations")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output-dir", default="runs/bert_imdb", help="folder for checkpoints")
    parser.add_argument("--plain", action="store_true", help="use the plain Trainer, for comparison")
    args = parser.parse_args()
    scale = TINY if args.tiny else FULL
    for name in ("lr", "steps", "eval_every"):
        if getattr(args, name) is None:
            setattr(args, name, getattr(scale, name))
    return args


def from_hub(seed: int) -> tuple[Any, Any, Dataset, Dataset]:
    """Model, tokenizer, training reviews and held-out reviews, with columns `text` and `label` (1: good)."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    model = AutoModelForSequenceClassification.from_pretrained(MODEL, num_labels=2)
    reviews = load_dataset(DATA)
    # The test reviews come sorted by label.
    return model, tokenizer, reviews["train"], reviews["test"].shuffle(seed=seed).select(range(HELD_OUT))


def made_here() -> tuple[Any, Any, Dataset, Dataset]:
    """The same four, small, without a download."""
    source = random.Random(0)
    train, held_out = made_up_reviews(source, 1000), made_up_reviews(source, 200)
    tokenizer = tiny_tokenizer(train["text"])
    shape = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=TINY.longest,
        pad_token_id=tokenizer.pad_token_id,
        num_labels=2,
    )
    return BertForSequenceClassification(shape), tokenizer, train, held_out


SUBJECTS = ["the plot", "the acting", "the music", "the ending", "the dialogue", "the camera work", "this film"]
PRAISE = ["wonderful", "moving", "clever", "a joy to watch", "funny and warm", "beautifully done", "gripping"]
BLAME = ["dull", "a waste of time", "clumsy", "painfully slow", "a mess", "hard to sit through", "badly written"]
NEUTRAL = ["we saw it on a Sunday .", "it runs for two hours .", "the story is set in Lisbon .", "it is a remake ."]
MINORITY_FRAC = 0.25
"""Sentences that say the opposite of the review's verdict: one word is not enough to tell."""


def made_up_reviews(source: random.Random, count: int) -> Dataset:
    labels = [source.randrange(2) for _ in range(count)]
    return Dataset.from_dict({"text": [made_up_review(source, label) for label in labels], "label": labels})


def made_up_review(source: random.Random, label: int) -> str:
    """Five opinions, most of them on the side of the label, and a remark that is neither."""
    minority = sum(source.random() < MINORITY_FRAC for _ in range(2))
    sides = [1 - label] * minority + [label] * (5 - minority)
    sentences = [f"{source.choice(SUBJECTS)} was {source.choice(PRAISE if good else BLAME)} ." for good in sides]
    sentences.append(source.choice(NEUTRAL))
    source.shuffle(sentences)
    return " ".join(sentences)


def tiny_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A tokenizer of BERT's kind (WordPiece, lower case), trained on a few texts."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=500, special_tokens=list(SPECIAL), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    ends = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def tokenized(reviews: Dataset, tokenizer: Any, longest: int) -> Dataset:
    def tokenize(batch: dict[str, list[str]]) -> dict[str, Any]:
        return dict(tokenizer(batch["text"], truncation=True, max_length=longest))

    return reviews.map(tokenize, batched=True, remove_columns=["text"])


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    return {"accuracy": float(np.mean(np.argmax(prediction.predictions, axis=-1) == prediction.label_ids))}


def main() -> None:
    args = arguments()
    scale = TINY if args.tiny else FULL
    if args.tiny:
        torch.set_num_threads(1)  # more do not help a model this small
    set_seed(args.seed)
    model, tokenizer, train, held_out = made_here() if args.tiny else from_hub(args.seed)
    trainer_class = Trainer if args.plain else agenttune.make_interactive(Trainer)
    trainer = trainer_class(
        model=model,
        args=TrainingArguments(
            output_dir=args.output_dir,
            max_steps=args.steps,
            per_device_train_batch_size=scale.batch,
            per_device_eval_batch_size=64,
            learning_rate=args.lr,
            lr_scheduler_type="linear",
            warmup_steps=args.steps // 10,
            weight_decay=0.01,
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
        train_dataset=tokenized(train, tokenizer, scale.longest),
        eval_dataset=tokenized(held_out, tokenizer, scale.longest),
        processing_class=tokenizer,  # saved beside the weights
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=accuracy,
    )
    trainer.train()
    final = trainer.evaluate()
    print(f"final evaluation loss: {final['eval_loss']:.4f} nats, accuracy: {final['eval_accuracy']:.3f}")


if __name__ == "__main__":
    main()
