"""Reinforcement learning: a policy gradient on gymnasium's CartPole, whose metric is a reward."""

from __future__ import annotations

from typing import Any

import numpy
import torch
from torch import nn

from agenttune.bench.tasks.data import Rows
from agenttune.bench.tasks.hf_training import HfTask, Parts
from agenttune.bench.tasks.perceptron import hidden_layers
from agenttune.bench.training import Split
from agenttune.errors import TaskDataMissing

PARALLEL = 16
"""Poles that are balanced at once, in a step of training."""
HORIZON = 32
"""Moves of each in a step."""
DISCOUNT = 0.97
VALUE_WEIGHT, ENTROPY_WEIGHT = 0.5, 0.01
EPISODES, MOST_MOVES = 20, 500
"""Of an evaluation, the final one has others; an episode of CartPole-v1 ends after 500 moves."""
_SPREAD = (1.5, 1.0, 0.15, 1.0)
"""Training starts anywhere within these of the middle: place, speed, angle, angular speed. So what a step does depends
on its batch alone, and a return to a checkpoint meets the same again."""


class ActorCritic(nn.Module):
    """Plays in its forward pass: HORIZON moves while training, whole episodes while evaluating.

    A batch is `starts` ([n, 4], states) and `draws` ([n, HORIZON], even numbers from 0 to 1 that choose the moves).
    """

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*hidden_layers([4] + [width] * layers, nn.Tanh))
        self.actor, self.critic = nn.Linear(width, 1), nn.Linear(width, 1)

    def forward(self, starts: torch.Tensor, draws: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        if not self.training:
            return {"loss": torch.zeros(()), "logits": self.episodes(starts)}
        states, moves, alive, ended = self.play(starts, draws)
        return {"loss": self.loss(states, moves, alive, ended)}

    def right(self, states: torch.Tensor) -> torch.Tensor:
        """Log-odds of pushing to the right."""
        given: torch.Tensor = self.actor(self.body(states)).squeeze(-1)
        return given

    @torch.no_grad()
    def play(
        self, starts: torch.Tensor, draws: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """States ([moves + 1, n, 4]), moves, whether the pole stood before each, and whether it fell by it."""
        poles = Poles(starts)
        states, moves, alive, ended = [starts], [], [], []
        for drawn in draws.T:
            move = drawn < torch.sigmoid(self.right(states[-1]))
            alive.append(poles.are_up)
            state, fell = poles.push(move)
            moves.append(move)
            states.append(state)
            ended.append(fell)
        return torch.stack(states), torch.stack(moves).float(), torch.stack(alive).float(), torch.stack(ended).float()

    def loss(self, states: torch.Tensor, moves: torch.Tensor, alive: torch.Tensor, ended: torch.Tensor) -> torch.Tensor:
        """Advantage actor-critic (Mnih et al. 2016), a reward of 1 for each move after which the pole stands."""
        values: torch.Tensor = self.critic(self.body(states)).squeeze(-1)
        returns = self.returns(values.detach()[-1], ended)
        log_odds = self.right(states[:-1])
        surprise = nn.functional.binary_cross_entropy_with_logits(log_odds, moves, reduction="none")
        p = torch.sigmoid(log_odds)
        entropy = nn.functional.binary_cross_entropy_with_logits(log_odds, p, reduction="none")
        advantage = returns - values[:-1]
        each = surprise * advantage.detach() + VALUE_WEIGHT * advantage.square() - ENTROPY_WEIGHT * entropy
        mean: torch.Tensor = (each * alive).sum() / alive.sum()
        return mean

    def returns(self, last: torch.Tensor, ended: torch.Tensor) -> torch.Tensor:
        """Discounted rewards to come, in units of what a pole that never falls would get."""
        after, found = last, []
        for fell in reversed(ended):
            after = (1 - fell) * ((1 - DISCOUNT) + DISCOUNT * after)
            found.append(after)
        return torch.stack(found[::-1])

    @torch.no_grad()
    def episodes(self, starts: torch.Tensor) -> torch.Tensor:
        """Moves until each pole falls, always with the likelier move ([n])."""
        poles, states, rewards = Poles(starts), starts, torch.zeros(len(starts))
        for _ in range(MOST_MOVES):
            rewards += poles.are_up
            if not poles.are_up.any():
                break
            states, _ = poles.push(self.right(states) > 0)
        return rewards


class Poles:
    """Some of gymnasium's carts side by side, from given states; a pole that fell stays down."""

    def __init__(self, starts: torch.Tensor) -> None:
        try:
            import gymnasium
        except ImportError:
            raise TaskDataMissing(
                "CartPole comes with a package that is not installed: pip install 'agenttune-toolkit[bench]'"
            ) from None
        made = gymnasium.make_vec("CartPole-v1", num_envs=len(starts), vectorization_mode="vector_entry_point")
        self._carts: Any = made.unwrapped
        self._carts.reset(seed=0)
        self._carts.state = starts.T.double().numpy().copy()
        self.are_up = torch.ones(len(starts), dtype=torch.bool)

    def push(self, right: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The states after a move, and which poles fell by it."""
        states, _, fell, _, _ = self._carts.step(right.numpy().astype(numpy.int64))
        fallen = torch.from_numpy(fell) & self.are_up
        self.are_up = self.are_up & ~fallen
        return torch.from_numpy(states), fallen


class CartPole(HfTask):
    """Balances a pole; the metric is the mean reward of 20 episodes, 500 at most."""

    def parts(self, seed: int, split: Split) -> Parts:
        model = ActorCritic(32, 2) if split == "development" else ActorCritic(64, 1)
        source = torch.Generator().manual_seed(2 * seed + (split == "test"))
        starts = (2 * torch.rand(8192, 4, generator=source) - 1) * torch.tensor(_SPREAD)
        upright = 0.1 * torch.rand(2 * EPISODES, 4, generator=source) - 0.05  # as CartPole's own `reset` does
        return Parts(
            model,
            _starts(starts, source),
            _starts(upright, source),
            batch_size=PARALLEL,
            compute_metrics=lambda output: {"reward": float(numpy.mean(output.predictions))},
        )


def _starts(states: torch.Tensor, source: torch.Generator) -> Rows:
    draws = torch.rand(len(states), HORIZON, generator=source)
    # A Trainer asks for labels; here they do no more than say to which side a pole leans.
    return Rows({"starts": states, "draws": draws, "labels": states[:, 2]})
