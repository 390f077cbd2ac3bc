"""Facts of a run of transformers' Trainer."""

from __future__ import annotations

import math
from typing import Any

import transformers
from torch import nn

from agenttune.protocol.run_facts import Rhythm, RunFacts
from agenttune.trainer.integrations.hf_epochs import EpochPlan
from agenttune.trainer.integrations.model_facts import facts_of, length_of, loader_facts


def hf_facts(
    trainer: Any, args: Any, state: Any, loader: Any, model: nn.Module, optimizer: Any, plan: EpochPlan
) -> RunFacts:
    """What is known of a Trainer's run.

    Args:
        trainer: The trainer; None where only its callbacks are known.
        args: Its arguments, as they are now.
        state: Its state, which holds the intervals in steps.
        loader: The loader that training began with.
        model: The model, without wrappers.
        optimizer: The optimizer.
        plan: Epochs as they are now.
    """
    data = loader_facts(loader, args.gradient_accumulation_steps)
    if trainer is not None and plan.epochs is not None:  # the data may have been replaced since
        data["epoch_steps"] = math.ceil(plan.batches / args.gradient_accumulation_steps)
        data["samples"] = length_of(trainer.train_dataset)
    epochs = plan.epochs if trainer is not None else (args.num_train_epochs if args.max_steps <= 0 else None)
    if data["epoch_steps"] and state.max_steps > 0 and (args.max_steps > 0 or plan.is_extended):
        epochs = state.max_steps / data["epoch_steps"]
    facts = facts_of(
        optimizer,
        model,
        **{**data, "batch_size": args.train_batch_size},
        replicas=args.world_size,
        epochs=epochs,
        evaluation=_rhythm(args.eval_strategy, state.eval_steps, args.eval_delay or 0),
        saving=_rhythm(args.save_strategy, state.save_steps),
        logging=_rhythm(args.logging_strategy, state.logging_steps),
    )
    unknown = {"chance_loss": None, "chance_of": "", "chance_is_guess": False}
    return facts if _has_usual_loss(trainer) else facts.model_copy(update=unknown)


def _rhythm(strategy: Any, steps: Any, first: float = 0) -> Rhythm | None:
    name = str(getattr(strategy, "value", strategy))
    if name == "epoch":
        return Rhythm(every=1, unit="epochs", first=first)
    return Rhythm(every=int(steps), first=first) if name == "steps" and steps and steps >= 1 else None


def _has_usual_loss(trainer: Any) -> bool:
    """Whether the loss is the model's own; only of that the chance level is known."""
    if trainer is None:
        return True
    if trainer.compute_loss_func is not None:
        return False
    own = [c for c in type(trainer).__mro__ if "compute_loss" in vars(c)]
    # TRL's fine-tuning adds metrics to the model's own loss.
    return own[0] is transformers.Trainer or own[0].__name__ == "SFTTrainer"
