"""The names that settings may use: knobs that every run has, and what the conditions of approval rules can speak of."""

from __future__ import annotations

import difflib
import re

from agenttune.protocol.commands import UpdateOptimizer, UpdateTraining

DOCUMENTED = {
    "step": "completed optimizer steps",
    "max_steps": "steps planned",
    "steps_left": "steps planned and not yet made",
    "progress": "part of the planned steps that is done, 0 to 1",
    "metric": "the goal metric as last known",
    "factor": "largest factor by which the command changes a knob in any group, of a rate at any step to come, up or "
    "down; infinite where that cannot be told",
    "commands": "commands that agents had let through so far",
    "steps_since_command": "steps since the newest of them; infinite if there is none",
}
"""Names, with their meaning. What is not known is NaN, and no comparison with it is true."""

DOCUMENTED_FUNCTIONS = {
    "now": "now('lr'): value of a knob as it stands, in the group that the command would make the largest",
    "to": "to('lr'): largest value that the command would give it in any group, of a rate at any step; NaN if it "
    "leaves the knob alone",
    "is_finite": "neither NaN nor infinite",
    "abs": "absolute value",
    "min": "smallest of its arguments",
    "max": "largest of its arguments",
}
"""Functions, with their meaning."""


KNOWN = tuple(
    name
    for command in (UpdateOptimizer, UpdateTraining)
    for name in command.model_fields
    if name not in {"kind", "other", *command.modifiers}
)
"""Knobs of optimizers and training loops. What a script registers is known only when it runs."""
CALLED = {
    **dict.fromkeys(("learning_rate", "learningrate", "lrate", "base_lr", "effective_lr", "peak_lr", "final_lr"), "lr"),
    **dict.fromkeys(("wd", "weightdecay", "l2"), "weight_decay"),
    **dict.fromkeys(("epsilon", "adam_epsilon"), "eps"),
    **dict.fromkeys(("beta1", "beta2", "beta", "adam_beta1", "adam_beta2", "adam_betas"), "betas"),
    **dict.fromkeys(
        ("grad_clip", "clip_grad", "clip_grad_norm", "gradient_clip_val", "gradient_clipping"), "max_grad_norm"
    ),
    **dict.fromkeys(("accumulate_grad_batches", "gradient_accumulation"), "gradient_accumulation_steps"),
    **dict.fromkeys(("num_train_steps", "num_steps"), "max_steps"),
}
"""What other libraries call them."""
CLOSE_RATIO = 0.85
"""From this likeness on a name is a slip of the pen (guess)."""
SHORTEST = 6
"""Characters of a name that can be told from a slip: `eps2` may be a knob of the script's own."""
IN_CONDITION = re.compile(r"\b(?:now|to)\(\s*['\"]([^'\"]*)['\"]")


def meant_by(name: str) -> str | None:
    """The knob that a name must mean which no run has; None for names that a script may register."""
    if name in KNOWN:
        return None
    plain = name.lower().replace("-", "_")
    if plain in CALLED:
        return CALLED[plain]
    if plain in KNOWN:
        return plain
    close = difflib.get_close_matches(plain, KNOWN, n=1, cutoff=CLOSE_RATIO)
    return close[0] if close and len(plain) >= SHORTEST else None


def checked_names(names: list[str]) -> list[str]:
    """Raises ValueError for a name that no run has."""
    for name in names:
        meant = meant_by(name)
        if meant is not None:
            raise ValueError(f"no run has a knob {name!r}, so this would protect nothing; did you mean {meant!r}?")
    return names


def names_in(condition: str) -> list[str]:
    """Knobs that the condition of an approval rule speaks of."""
    return IN_CONDITION.findall(condition)
