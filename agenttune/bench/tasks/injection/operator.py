"""What an operator did wrong earlier on: a command in the run's log, with the same effect where there is no log."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from typing import Any

from agenttune.bench.tasks.injection.accidents import AtOneStep
from agenttune.bench.tasks.injection.injector import injects
from agenttune.bench.tasks.injection.layers import StruckLayer, freeze, large_parts
from agenttune.bench.training import Agent, Live
from agenttune.control.local import LocalControl
from agenttune.errors import ConfigError
from agenttune.protocol.commands import parse_command
from agenttune.protocol.proposals import Author, Proposal, State

OPERATOR = Author(principal="operator", name="earlier operator")


class _Command(AtOneStep):
    """A command that is asked for once, at the onset; none in a trial, as commands wait for its end."""

    def started(self, live: Live, agent: Agent | None) -> None:
        self._live, self._agent = live, agent

    def after_step(self, step: int, is_trial: bool = False) -> None:
        if not is_trial:
            super().after_step(step)

    def happen(self) -> None:
        if self._agent is None:
            self.act(self._live)
        else:
            _submit(self._agent, self.command(self._live), self.fault.kind)

    @abstractmethod
    def act(self, live: Live) -> None:
        """Do it without agenttune."""

    @abstractmethod
    def command(self, live: Live) -> dict[str, Any]:
        """The same as a command."""


def _submit(agent: Agent, command: dict[str, Any], kind: str) -> None:
    control = LocalControl(agent.folder)
    proposal = Proposal(command=parse_command(command), author=OPERATOR, rationale="to be on the safe side")
    with contextlib.closing(control.log(agent.run_id)):
        record = control.submit(agent.run_id, proposal)
    if record.state is not State.QUEUED:
        reason = record.verdict.reason if record.verdict else record.state.value
        raise ConfigError(
            f"the suite's gate refuses the operator's command of {kind} ({reason}); widen gate.bounds or gate.forbid "
            "in the suite's settings, or leave the fault out",
            field="settings.gate",
        )


@injects("bad_intervention", "bad_intervention_raise")
class RateByOperator(_Command):
    """An operator changes the rate."""

    def act(self, live: Live) -> None:
        live.scale_lr(self.value("rate_factor"))

    def command(self, live: Live) -> dict[str, Any]:
        return {"kind": "update_optimizer", "lr": live.base_lr * self.value("rate_factor"), "lr_sets": "base"}


@injects("bad_intervention_freeze")
class FrozenByOperator(_Command, StruckLayer):
    """An operator freezes a layer or block."""

    candidates = staticmethod(large_parts)

    def act(self, live: Live) -> None:
        freeze(self.struck)

    def command(self, live: Live) -> dict[str, Any]:
        return {
            "kind": "model_layer_operation",
            "layer_name": self.layer,
            "operation_name": "requires_grad_",
            "params": {"requires_grad": False},
        }
