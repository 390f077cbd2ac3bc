"""`config.yaml` as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from agenttune.config.gate import BudgetSettings, GateSettings, ProbationSettings
from agenttune.config.llm import LlmSettings
from agenttune.config.plugins import PluginEntry
from agenttune.config.sections import (
    SCRIPT_FOLDER,
    CheckpointSettings,
    GoalSettings,
    NotifySettings,
    RoundsSettings,
    RunSettings,
    ServerSettings,
    StoreSettings,
    WakeSettings,
    from_count,
)
from agenttune.config.setting import Settings
from agenttune.config.yaml_files import load_yaml


class Config(Settings):
    """All of `config.yaml`."""

    run: RunSettings
    """What to train."""
    goal: GoalSettings = GoalSettings()
    """What counts as good."""
    policy: str = "default"
    """A policy: a name in `policies/`, the path of a policy file, or a class of your own such as ./mine.py:Mine (see
    docs/extending.md). default: the guardian's rules, then the language model where they have nothing to say, if one
    is configured."""
    detectors: list[PluginEntry] = Field(default_factory=list)
    """Detectors of your own beside the shipped ones, each ./mine.py:Mine or an installed name, or a mapping with that
    as its `type` and its parameters."""
    wake: WakeSettings = WakeSettings()
    """When the policy looks at the run."""
    llm: LlmSettings = LlmSettings()
    """The language model."""
    gate: GateSettings = GateSettings()
    """What no command may do."""
    probation: ProbationSettings = ProbationSettings()
    """How changes are watched and undone."""
    notify: NotifySettings = NotifySettings()
    """Who is told when nobody watches."""
    budgets: BudgetSettings = BudgetSettings()
    """What the agent may use up."""
    rounds: Annotated[RoundsSettings, BeforeValidator(from_count)] = RoundsSettings()
    """Several runs in a row."""
    checkpoints: CheckpointSettings = CheckpointSettings()
    """What is kept of the checkpoints that commands save."""
    server: ServerSettings = ServerSettings()
    """The control server."""
    store: StoreSettings = StoreSettings()
    """Where logs are kept."""

    @model_validator(mode="after")
    def _reviewer_is_known(self) -> Config:
        if self.gate.asks_model and not self.gate.reviewer.llm(self.llm).model:
            raise ValueError("a rule of gate.approval asks a model, but none is named: set gate.reviewer.model")
        return self

    @model_validator(mode="after")
    def _direction_is_known(self) -> Config:
        metric = self.probation.metric
        if metric is not None and metric != self.goal.metric and self.probation.direction is None:
            raise ValueError(
                f"probation.metric {metric!r} is not the goal's ({self.goal.metric!r}), so which way it should go is "
                "not known; set probation.direction to minimize or maximize"
            )
        return self

    @model_validator(mode="after")
    def _price_is_known(self) -> Config:
        if self.budgets.max_usd is not None and self.llm.model and self.llm.model not in self.llm.prices:
            raise ValueError(
                f"budgets.max_usd needs the price of {self.llm.model} in llm.prices (input_usd and output_usd per "
                "million tokens); or use budgets.max_calls or max_tokens"
            )
        return self


class AttachSettings(Settings):
    """What an agent needs beside a run that was started without a config file: the defaults of `Config`."""

    goal: GoalSettings = GoalSettings()
    """What counts as good."""
    detectors: list[PluginEntry] = Field(default_factory=list)
    """Detectors of the user's own; none without a file that could name them."""
    wake: WakeSettings = WakeSettings()
    """When the policy looks at the run."""
    llm: LlmSettings = LlmSettings()
    """The language model."""
    budgets: BudgetSettings = BudgetSettings()
    """What the agent may use up."""
    server: ServerSettings = ServerSettings()
    """The control server."""


def load_config(path: Path, is_run: bool = False) -> Config:
    """Read and check a config file.

    Args:
        path: The file.
        is_run: Whether its script is to run, and so must exist.

    Raises:
        ConfigError: Missing file, broken YAML, unknown or missing key, wrong type; `file:line: key: problem`.
    """
    return load_yaml(path, Config, context={SCRIPT_FOLDER: path.parent} if is_run else None)
