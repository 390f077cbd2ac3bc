"""The settings of a learned policy. NumPy is loaded only where one is made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from agenttune.config import PolicyFile
from agenttune.config.resources import find_resource
from agenttune.errors import ConfigError
from agenttune.policy.base import Policy, PolicyContext
from agenttune.policy.run_spans import Span

FOLDER = "folder"
"""Of a validation context: the folder of the policy's file, from which paths count."""


class LearnedFile(PolicyFile):
    """`type: learned`: proposes what an ensemble, trained on the benchmark, agrees would help."""

    type: Literal["learned"]
    """Kind of policy."""
    weights: Path
    """Its weights, a safetensors file; a relative path counts from this file's folder."""
    min_agreement: float = Field(0.9, gt=0.5, le=1)
    """Part of the members that have to foretell `min_gain` at least; else nothing is proposed."""
    min_gain: float = Field(0.2, ge=0, le=1)
    """By how much better the goal metric has to be in the end, as a part of the worse value."""
    max_changes: int = Field(4, ge=1)
    """Changes in a run at most."""
    rest_steps: Span = 20
    """Steps from one change to the next, or a part of the run such as 5%."""

    @field_validator("weights")
    @classmethod
    def _from_its_folder(cls, weights: Path, info: ValidationInfo) -> Path:
        folder = (info.context or {}).get(FOLDER)
        path = weights.expanduser() if folder is None else Path(folder) / weights.expanduser()
        from agenttune.policy.learned.ensemble import load_ensemble

        try:
            load_ensemble(path)
        except ConfigError as error:  # as pydantic expects it, so that the loader can add file, line and key
            raise ValueError(error.message) from None
        return path


def make_learned(name: str, file: LearnedFile, context: PolicyContext) -> Policy:
    """The policy of a file."""
    from agenttune.policy.learned.ensemble import load_ensemble
    from agenttune.policy.learned.learned_policy import LearnedPolicy

    return LearnedPolicy(name, file, load_ensemble(file.weights))


def shipped_weights() -> Path:
    """The weights that ship.

    Raises:
        ConfigError: They are missing.
    """
    return find_resource("policies", "learned.safetensors")


def read_files(settings: object) -> Sequence[Path]:
    """Files beside its own that a policy is made of."""
    return [settings.weights] if isinstance(settings, LearnedFile) else []
