"""References: doing nothing, the same with noise, and what would have been best."""

from __future__ import annotations

from agenttune.bench.cell import Outcome
from agenttune.bench.contenders.contender import Contender, Trial, register

JITTER = 1e-6
"""Relative perturbation of the first weights: below what anybody would call a change (guess)."""


@register
class NoOp(Contender):
    """The user's script as it is, without agenttune."""

    name, about, role = "none", "the training as it is, without agenttune", "reference"

    def play(self, trial: Trial) -> Outcome:
        return Outcome(trained=trial.train(), fault=trial.fault)


@register
class Jitter(Contender):
    """The user's script, with first weights that differ in the seventh digit."""

    name, about, role = "jitter", "the training as it is, with first weights changed by a millionth", "reference"

    def play(self, trial: Trial) -> Outcome:
        return Outcome(trained=trial.train(jitter=JITTER), fault=trial.fault)
