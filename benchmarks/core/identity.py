"""Are the losses bit-identical to the plain Trainer's when nobody asks for anything?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.core.processes import attended, bench, read_trace, start_interactive
from benchmarks.core.sizing import TRAINING_TIMEOUT_S, run_plain

DEPTH = 4


@dataclass(frozen=True)
class Identity:
    """Two runs with dropout and shuffling, one plain, one with everything attached and no command.

    Attributes:
        steps: Steps of both.
        equal_losses: Steps whose losses agree to the last bit.
        equal_weights: Whether all final weights do.
    """

    steps: int
    equal_losses: int
    equal_weights: bool


def measure_identity(folder: Path, steps: int = 200) -> Identity:
    plain = run_plain(folder, DEPTH, steps)
    with bench(folder) as server:
        server.new_run("identity").close()
        with attended(server, "identity"):
            start_interactive(server, "identity", DEPTH, steps).wait(TRAINING_TIMEOUT_S)
    watched = read_trace(folder, "identity")
    equal = sum(a == b for a, b in zip(plain.losses, watched.losses, strict=True))
    return Identity(len(plain.losses), equal, plain.weights == watched.weights)
