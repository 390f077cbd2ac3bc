"""What looking at the weights takes of a training thread: `python -m benchmarks.weight_looks`, a few seconds.

Models of growing depth and width on the device that there is. A look is timed by the thread's own clock while the
caches hold something else, as between two steps of training; on an accelerator the kernels' own time is waited for as
well, which training does not. Told beside it: the mean over a run of 1,000 steps, in which not every step is looked at.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from agenttune.trainer.layers.weight_sampler import WeightSampler

ROUNDS = 30
STEPS = 1000
CACHE_BYTES = 64 << 20
SHAPES = ((6, 256), (14, 768), (48, 1024), (150, 1024))
"""Linear layers and their width."""


@dataclass
class _Loop:
    """As much of a training loop as is looked at."""

    net: nn.Module

    def __post_init__(self) -> None:
        self.updates = torch.optim.SGD(self.net.parameters(), lr=0.1)

    def model(self) -> nn.Module:
        return self.net

    def optimizer(self) -> torch.optim.Optimizer:
        return self.updates

    def max_steps(self) -> int:
        return STEPS


def looks_in_a_run(loop: Any) -> int:
    sampler, count = WeightSampler(loop), 0
    for step in range(1, STEPS + 1):
        if step >= sampler.due_step or sampler.stretch != 0:
            sampler.look(step, 0)
            count += 1
    return count


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(1)
    other = torch.zeros(CACHE_BYTES // 4)
    print(f"device {device}; microseconds of the training thread")
    print("| layers | weights | a look | a step, over 1,000 |")
    print("|---|---|---|---|")
    for depth, width in SHAPES:
        net = nn.Sequential(*(nn.Linear(width, width, device=device) for _ in range(depth)))
        loop: Any = _Loop(net)
        sampler = WeightSampler(loop)
        sampler.look(1, 0)
        took_us = []
        for step in range(2, ROUNDS + 2):
            other.add_(1)
            begun_s = time.thread_time()
            sampler.look(step, 0)
            took_us.append(1e6 * (time.thread_time() - begun_s))
        look_us, weights = statistics.median(took_us), sum(p.numel() for p in net.parameters())
        print(f"| {depth} | {weights / 1e6:.1f} M | {look_us:.0f} | {look_us * looks_in_a_run(loop) / STEPS:.1f} |")


if __name__ == "__main__":
    main()
