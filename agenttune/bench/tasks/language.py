"""Language: a small GPT on characters."""

from __future__ import annotations

from typing import Any

from agenttune.bench.tasks.data import ALPHABET, blocks, help_text
from agenttune.bench.tasks.hf_training import HfTask, Parts
from agenttune.bench.training import Split

LENGTH = 16
"""Characters that the model sees at once."""
BATCH = 32
HELD_OUT = 800
"""Blocks to evaluate on, half of them in the end only."""


def small_gpt(layers: int, width: int) -> Any:
    """A GPT-2 of that shape with first weights at random, without dropout."""
    from transformers import GPT2Config, GPT2LMHeadModel

    made = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(ALPHABET),
            n_positions=LENGTH,
            n_embd=width,
            n_layer=layers,
            n_head=4,
            activation_function="gelu_pytorch_tanh",
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=None,
            eos_token_id=None,
            use_cache=False,
        )
    )
    made.loss_type = "ForCausalLM"  # transformers warns where it has to guess it
    return made


class CharGpt(HfTask):
    """Predicts the next character of Python's language reference."""

    def parts(self, seed: int, split: Split) -> Parts:
        rows = blocks(help_text(), LENGTH, split)
        border = len(rows) - HELD_OUT
        model = small_gpt(2, 32) if split == "development" else small_gpt(3, 32)
        return Parts(model, rows.between(0, border), rows.between(border, len(rows)), batch_size=BATCH)
