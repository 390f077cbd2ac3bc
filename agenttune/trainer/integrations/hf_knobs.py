"""Knobs that transformers' Trainer has by itself: those that the running loop reads anew each time.

`TrainingArguments` is mostly read once; each of these is written where the loop looks (tested for 4.57 and 5.x):
intervals in `trainer.state`, label smoothing in `trainer.label_smoother`, NEFTune's noise in the embedding.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import transformers
from torch import nn
from transformers.models.auto import modeling_auto
from transformers.trainer_pt_utils import LabelSmoother

from agenttune.trainer.knobs import Knob, KnobRegistry, make_knob

CLASSIFIERS = (
    "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
    "MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES",
    "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    "MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES",
)
"""transformers' lists of models whose labels are classes, and whose loss is a plain cross-entropy over `logits`."""
NOT_SMOOTHED = ("regression", "multi_label_classification")


def register_trainer_knobs(trainer: Any, registry: KnobRegistry) -> None:
    """Offer the trainer's own knobs; what the user registered under the same name stays.

    Args:
        trainer: A transformers Trainer whose training begins: its state is made.
        registry: Where to offer them.
    """
    for knob in (*_label_smoothing(trainer), *_neftune(trainer), *_intervals(trainer), _nan_filter(trainer)):
        if knob.name not in registry:
            registry.register(knob)


def _label_smoothing(trainer: Any) -> Iterator[Knob]:
    if not _can_smooth(trainer):
        return
    on_from_start = trainer.label_smoother is not None

    def read() -> float:
        return float(trainer.label_smoother.epsilon) if trainer.label_smoother is not None else 0.0

    def write(value: float) -> None:
        trainer.label_smoother = LabelSmoother(epsilon=value) if value or on_from_start else None

    yield make_knob(
        "label_smoothing",
        read,
        write,
        unit="share",
        bounds=(0, 1),
        description="Share of the target that is spread over all classes; the loss of evaluations has it too.",
    )


def _can_smooth(trainer: Any) -> bool:
    """Whether the trainer's own loss is used, on labels that are classes."""
    if trainer.compute_loss_func is not None or getattr(trainer.args, "use_liger_kernel", False):
        return False
    if type(trainer).compute_loss is not transformers.Trainer.compute_loss:
        return False
    if trainer.label_smoother is not None:  # switched on at the start: its owner knows that it fits
        return True
    model = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
    config = getattr(model, "config", None)
    is_known = any(type(model).__name__ in getattr(modeling_auto, name).values() for name in CLASSIFIERS)
    if config is None or not is_known or getattr(config, "is_encoder_decoder", False):
        return False
    is_regression = "SequenceClassification" in type(model).__name__ and config.num_labels == 1
    return config.problem_type not in NOT_SMOOTHED and not is_regression


def _neftune(trainer: Any) -> Iterator[Knob]:
    if getattr(trainer, "neftune_noise_alpha", None) is None:
        return
    model = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
    noisy = [m for m in model.modules() if isinstance(m, nn.Embedding) and hasattr(m, "neftune_noise_alpha")]
    if len(noisy) != 1:
        return
    embedding: Any = noisy[0]
    embedding.neftune_noise_alpha = float(embedding.neftune_noise_alpha)
    yield make_knob(
        "neftune_noise_alpha",
        lambda: embedding.neftune_noise_alpha,
        lambda value: setattr(embedding, "neftune_noise_alpha", value),
        bounds=(0, None),
        description="Size of the noise on input embeddings while training (NEFTune).",
        redefines="training",
    )


def _intervals(trainer: Any) -> Iterator[Knob]:
    """Intervals that count in steps; with `load_best_model_at_end` evaluations and checkpoints have to keep step."""
    args = trainer.args
    best = args.load_best_model_at_end
    for what, strategy, fixed in (
        ("logging", args.logging_strategy, False),
        ("eval", args.eval_strategy, best),
        ("save", args.save_strategy, best),
    ):
        if str(getattr(strategy, "value", strategy)) == "steps" and not fixed:
            yield _interval(trainer, f"{what}_steps")


def _interval(trainer: Any, name: str) -> Knob:
    what = {"logging_steps": "rows of the trainer's log", "eval_steps": "evaluations", "save_steps": "checkpoints"}
    return make_knob(
        name,
        lambda: int(getattr(trainer.state, name)),
        lambda value: setattr(trainer.state, name, value),
        unit="steps",
        bounds=(1, None),
        description=f"Steps between {what[name]}.",
        redefines="nothing",
    )


def _nan_filter(trainer: Any) -> Knob:
    return make_knob(
        "logging_nan_inf_filter",
        lambda: bool(trainer.args.logging_nan_inf_filter),
        lambda value: setattr(trainer.args, "logging_nan_inf_filter", value),
        description="Whether the trainer's log leaves out losses that are NaN or infinite, and so looks healthy.",
        redefines="nothing",
    )
