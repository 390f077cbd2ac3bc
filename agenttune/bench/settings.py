"""What a suite sets for all of its contenders: the sections of `config.yaml` that steer an agent."""

from __future__ import annotations

from pydantic import Field

from agenttune.config import BudgetSettings, GateSettings, LlmSettings, ProbationSettings, Settings, WakeSettings
from agenttune.config.plugins import PluginEntry


class BenchSettings(Settings):
    """The same for every contender that acts through the gate; as in `config.yaml`, where the defaults are told."""

    wake: WakeSettings = WakeSettings()
    """When the policy looks at the run. The mode is always lockstep: a result must not depend on the machine's load."""
    gate: GateSettings = GateSettings()
    """What no command may do."""
    budgets: BudgetSettings = BudgetSettings()
    """What the agent may use up."""
    probation: ProbationSettings = ProbationSettings()
    """How changes are watched and undone."""
    llm: LlmSettings = LlmSettings()
    """The language model."""
    detectors: list[PluginEntry] = Field(default_factory=list)
    """Detectors of your own beside the shipped ones, with paths from the suite's folder."""
    finds: dict[str, list[str]] = Field(default_factory=dict)
    """Faults that a finding counts as having found, by the finding's kind: what your own detectors are for."""
