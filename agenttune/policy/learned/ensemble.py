"""Small networks side by side that foretell what a change would gain; what they do not agree on nobody knows.

Weights are a safetensors file, and so that nothing of it is run, only read; inference is a few matrix products.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from agenttune.errors import ConfigError
from agenttune.policy.learned.features import NAMES, Numbers, version

FORMAT, TOLD = "agenttune-learned-1", "agenttune"
MOST_BYTES = 1_000_000
"""A file that is larger is none of ours."""
LAYERS = ("1", "2", "3")


@dataclass(frozen=True)
class Ensemble:
    """The members' weights, stacked.

    Attributes:
        weights, biases: Of each layer: [members, inputs, outputs] and [members, 1, outputs].
        made: What they were made with: budget, data, date; for people.
    """

    weights: Sequence[Numbers]
    biases: Sequence[Numbers]
    made: Mapping[str, Any] = field(default_factory=dict)

    @property
    def members(self) -> int:
        return int(self.weights[0].shape[0])

    def gains(self, inputs: Numbers) -> NDArray[np.float64]:
        """What each member foretells for each row: [members, rows], from -1 to 1.

        Args:
            inputs: [rows, columns], as `features.inputs` makes them.
        """
        return np.tanh(self.layers(inputs)[-1][..., 0]).astype(np.float64)

    def layers(self, inputs: Numbers) -> list[Numbers]:
        """What each layer puts out, the last one without its bound: [members, rows, outputs]."""
        found: list[Numbers] = [np.broadcast_to(inputs, (self.members, *inputs.shape))]
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            out = found[-1] @ weight + bias
            found.append(out if number == len(self.weights) - 1 else np.maximum(out, 0))
        return found[1:]

    def save(self, path: Path) -> None:
        """Write it, whole or not at all."""
        tensors = {f"weight{name}": value for name, value in zip(LAYERS, self.weights, strict=True)}
        tensors |= {f"bias{name}": value for name, value in zip(LAYERS, self.biases, strict=True)}
        aside = path.with_suffix(".part")
        # One key: safetensors writes several in any order, and the same weights are to be the same file.
        told = {TOLD: json.dumps({"format": FORMAT, "version": version(), "made": dict(self.made)})}
        save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, aside, told)
        aside.replace(path)


def load_ensemble(path: Path) -> Ensemble:
    """Read one.

    Raises:
        ConfigError: It is not there, not such a file, or of another version; says what to do.
    """
    if not path.is_file():
        raise ConfigError(
            f"no weights at {path}: name the file that ships (`weights: learned.safetensors`), or make your own with "
            "`agenttune learn RUNS -o FILE`",
            field="weights",
        )
    if path.stat().st_size > MOST_BYTES:
        raise ConfigError(
            f"{path} is larger than weights of a learned policy are ({MOST_BYTES:,} bytes)", field="weights"
        )
    try:
        with safe_open(path, framework="numpy") as file:
            told = json.loads((file.metadata() or {}).get(TOLD, "{}"))
            _check_version(path, told)
            read = {name: file.get_tensor(name) for name in file.offset_keys()}
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path} is not a safetensors file: {error}", field="weights") from None
    return _checked(path, read, told.get("made", {}))


def _check_version(path: Path, told: Mapping[str, Any]) -> None:
    if told.get("format") != FORMAT:
        raise ConfigError(f"{path} holds no weights of a learned policy", field="weights")
    if told.get("version") != version():
        raise ConfigError(
            f"the weights in {path} are of version {told.get('version')}, and this agenttune reads runs by version "
            f"{version()}: use those that ship with it, or make yours again with `agenttune learn`",
            field="weights",
        )


def _checked(path: Path, read: Mapping[str, Numbers], made: Mapping[str, Any]) -> Ensemble:
    wanted = [f"{kind}{name}" for kind in ("weight", "bias") for name in LAYERS]
    missing = [name for name in wanted if name not in read]
    if missing:
        raise ConfigError(f"{path} lacks {', '.join(missing)}", field="weights")
    weights, biases = [read[f"weight{name}"] for name in LAYERS], [read[f"bias{name}"] for name in LAYERS]
    sizes = [tuple(weight.shape) for weight in weights]
    if any(len(size) != 3 for size in sizes):
        raise ConfigError(f"the weights in {path} do not fit together", field="weights")
    members, hidden = sizes[0][0], [size[2] for size in sizes[:-1]]
    fits = [(members, *pair) for pair in zip([len(NAMES), *hidden], [*hidden, 1], strict=True)]
    is_sound = all(np.isfinite(value).all() for value in (*weights, *biases))
    if sizes != fits or [b.shape for b in biases] != [(members, 1, out) for _, _, out in fits] or not is_sound:
        raise ConfigError(f"the weights in {path} do not fit together", field="weights")
    return Ensemble(weights, biases, made)
