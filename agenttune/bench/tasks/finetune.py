"""Fine-tuning: the lower layers of a pretrained encoder learn to tell what a short text feels like."""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from agenttune.bench.tasks.data import Rows, encoder_folder, half, sentiments, tokenizer
from agenttune.bench.tasks.hf_training import HfTask, Parts
from agenttune.bench.training import Split

LENGTH = 12
"""Tokens of a text; what is longer is cut."""
BATCH = 4
TEXTS, HELD_OUT = 2000, 240
"""Of each half."""
WIDTH, LABELS = 384, 2


class Classifier(nn.Module):
    """An encoder, the mean of its outputs, and a linear layer; embeddings and the first `frozen` layers stay."""

    def __init__(self, encoder: Any, frozen: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.encoder.embeddings.requires_grad_(False)
        self.encoder.encoder.layer[:frozen].requires_grad_(False)
        self.head = nn.Linear(WIDTH, LABELS)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        outputs = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(outputs.dtype)
        logits = self.head((outputs * mask).sum(1) / mask.sum(1))
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


class MiniLm(HfTask):
    """The first layers of MiniLM-L6 as a classifier of feelings."""

    def parts(self, seed: int, split: Split) -> Parts:
        rows = half(_encoded()[0], split)
        layers, frozen = (1, 0) if split == "development" else (2, 1)
        model = Classifier(copy.deepcopy(_encoder(layers)), frozen)
        return Parts(model, rows.between(0, TEXTS), rows.between(TEXTS, len(rows)), batch_size=BATCH)


@lru_cache
def _encoded() -> tuple[Rows, torch.Tensor]:
    """Texts as tokens, which are numbered anew among those that occur, and their numbers in the encoder's vocabulary.

    Most of its 30,522 tokens do not occur; without them a checkpoint is a fifth of the size.
    """
    texts, labels = zip(*sentiments()[: 3 * (TEXTS + HELD_OUT)], strict=True)
    encoded = tokenizer(LENGTH).encode_batch(list(texts))
    # Each once: many texts are somebody else's, said again, and would be in both halves.
    once = {tuple(one.ids): (one.attention_mask, label) for one, label in zip(encoded, labels, strict=True)}
    kept = list(once.items())[: 2 * (TEXTS + HELD_OUT)]
    ids = torch.tensor([tokens for tokens, _ in kept])
    vocabulary = torch.unique(ids)
    columns = {
        "input_ids": torch.searchsorted(vocabulary, ids),
        "attention_mask": torch.tensor([mask for _, (mask, _) in kept]),
        "labels": torch.tensor([label for _, (_, label) in kept]),
    }
    return Rows(columns), vocabulary


@lru_cache
def _encoder(layers: int) -> Any:
    """The pretrained encoder's embeddings and first layers, without dropout."""
    from safetensors import safe_open
    from transformers import BertConfig, BertModel

    shape = {"num_hidden_layers": layers, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    with torch.random.fork_rng():  # first weights at random, which are not kept, change nobody's random numbers
        made = BertModel(BertConfig.from_pretrained(encoder_folder(), **shape), add_pooling_layer=False)
    with safe_open(encoder_folder() / "model.safetensors", framework="pt") as file:
        made.load_state_dict({name: file.get_tensor(name) for name in made.state_dict()})
    used = made.embeddings.word_embeddings.weight[_encoded()[1]].detach()
    made.embeddings.word_embeddings = nn.Embedding(len(used), WIDTH, _weight=used)
    return made
