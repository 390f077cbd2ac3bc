"""Checkpoints on disk, as the training loop wrote them."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

STATE_NAME = "trainer_state.json"
"""Written last by transformers, so that a folder that has it is complete."""


@dataclass
class SavedCheckpoint:
    """A checkpoint that was seen on disk.

    Attributes:
        is_current: No value was changed since it was saved.
    """

    path: str
    step: int
    branch: str = "main"
    is_current: bool = True

    def new_id(self) -> str:
        """A name for it that is unique in the run and safe as a file name."""
        return f"{self.branch}-{self.step}-{secrets.token_hex(3)}"


def find_checkpoint(output_dir: Path, step: int) -> SavedCheckpoint | str:
    """The complete checkpoint of a step under `output_dir` (one level deeper for a hyperparameter search).

    Returns:
        The checkpoint, or why there is none.
    """
    name = f"checkpoint-{step}"
    complete = [*output_dir.glob(f"{name}/{STATE_NAME}"), *output_dir.glob(f"*/{name}/{STATE_NAME}")]
    if not complete:
        return f"the trainer reported a save, but {output_dir / name} holds no {STATE_NAME}"
    newest = max(complete, key=lambda path: path.stat().st_mtime)
    return SavedCheckpoint(str(newest.parent.absolute()), step)
