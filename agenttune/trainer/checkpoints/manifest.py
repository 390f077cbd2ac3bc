"""`agenttune.json`, the last file of a checkpoint: what no other file of it holds, and which files there are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from agenttune.errors import UserError

MANIFEST = "agenttune.json"
LOOP_STATE = "trainer_state.json"
FORMAT = 1


class Manifest(BaseModel):
    """What `agenttune.json` holds.

    Attributes:
        run: Id of the run that wrote it; empty in those of older versions.
        files: Size in bytes of each file beside it; a folder whose files differ is damaged.
        left_out: Weights that are stored nowhere, as they are not trained, with the sums of their bits.
        other: Names in the model's own files that are not the model's, or not with its values.
    """

    format: int = FORMAT
    step: int
    branch: str
    run: str = ""
    loop: dict[str, Any] = Field(default_factory=dict)
    steered: dict[str, Any] = Field(default_factory=dict)
    files: dict[str, int] = Field(default_factory=dict)
    left_out: dict[str, int] = Field(default_factory=dict)
    other: list[str] = Field(default_factory=list)


def read_manifest(folder: Path) -> Manifest | None:
    """What `agenttune.json` says; None where there is none.

    Raises:
        UserError: It is damaged, of a newer version, or the files beside it are not those that it names.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        manifest = Manifest.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        raise damaged(folder, f"{MANIFEST} cannot be read ({str(error).splitlines()[0]})") from None
    if manifest.format > FORMAT:
        raise UserError(
            f"the checkpoint in {folder} has format {manifest.format}, this agenttune reads up to {FORMAT}",
            field="checkpoint_id",
        )
    for name, size in manifest.files.items():
        if name == MANIFEST:  # older versions noted its size of before
            continue
        found = (folder / name).stat().st_size if (folder / name).is_file() else None
        if found != size:
            is_now = "missing" if found is None else f"{found} bytes"
            raise damaged(folder, f"{name} should have {size} bytes and is {is_now}")
    return manifest


def written_by(folder: Path) -> str:
    """The run that wrote a checkpoint; empty where that cannot be told."""
    try:
        return Manifest.model_validate_json((folder / MANIFEST).read_text(encoding="utf-8")).run
    except (OSError, ValidationError, UnicodeDecodeError):
        return ""


def damaged(folder: Path, what: str, problem: str = "is damaged") -> UserError:
    return UserError(f"the checkpoint in {folder} {problem}: {what}", field="checkpoint_id")


def is_complete(folder: Path) -> bool:
    """Whether a folder looks like a whole checkpoint; transformers writes its loop's state last."""
    return (folder / MANIFEST).is_file() or (folder / LOOP_STATE).is_file()
