"""Guardrails first, then whoever approves; a proposal that nobody refuses is approved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agenttune.config import BudgetSettings, GateSettings
from agenttune.events import RunInfo
from agenttune.gate.guardrails import GUARDRAILS, Guardrail, World
from agenttune.proposals import CommandRecord, Proposal, Verdict


@dataclass(frozen=True)
class Gate:
    """Judges proposals by the run's settings.

    Attributes:
        settings: Bounds, cooldown and forbidden commands.
        budgets: What agents may use up.
        guardrails: Asked in order; the first refusal is the verdict.
    """

    settings: GateSettings
    budgets: BudgetSettings
    guardrails: Sequence[Guardrail] = GUARDRAILS

    @classmethod
    def of(cls, info: RunInfo) -> Gate:
        """The gate with the settings that the run was started with."""
        return cls(
            GateSettings.model_validate(info.rules.get("gate", {})),
            BudgetSettings.model_validate(info.rules.get("budgets", {})),
        )

    def judge(
        self, proposal: Proposal, info: RunInfo, history: Sequence[CommandRecord] = (), taken: int | None = None
    ) -> Verdict:
        """The verdict on a proposal.

        Args:
            proposal: What is asked.
            info: The run as it stands, with its knobs.
            history: The newest commands of agents in a state of `TAKEN`, oldest first.
            taken: How many such commands there are in all; default: as many as in `history`.
        """
        taken = len(history) if taken is None else taken
        world = World(info=info, history=history, taken=taken, settings=self.settings, budgets=self.budgets)
        for guardrail in self.guardrails:
            refusal = guardrail(proposal, world)
            if refusal is not None:
                return refusal
        return Verdict(decision="approved", decided_by="auto")
