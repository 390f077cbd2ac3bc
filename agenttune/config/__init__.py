"""`config.yaml` and policy files as typed settings; safe expressions; where prompts and policies are found.

Every key is documented in `config.yaml` itself; unknown keys are refused. Knows the protocol only.
"""

from agenttune.config.config import AttachSettings, Config, load_config
from agenttune.config.gate import (
    ApprovalRule,
    Bounds,
    BudgetSettings,
    GateSettings,
    PolicyFile,
    ProbationSettings,
    rule_name,
    with_limits_of,
)
from agenttune.config.llm import GateReviewerSettings, LlmSettings, Price, ReviewerSettings
from agenttune.config.sections import (
    DEFAULT_PORT,
    CheckpointSettings,
    GoalSettings,
    NotifySettings,
    RoundParameter,
    RunSettings,
    ServerSettings,
    WakeSettings,
)
from agenttune.config.setting import Settings
from agenttune.config.yaml_files import Place, load_yaml, written_at

__all__ = [
    "DEFAULT_PORT",
    "ApprovalRule",
    "AttachSettings",
    "Bounds",
    "BudgetSettings",
    "CheckpointSettings",
    "Config",
    "GateReviewerSettings",
    "GateSettings",
    "GoalSettings",
    "LlmSettings",
    "NotifySettings",
    "Place",
    "PolicyFile",
    "Price",
    "ProbationSettings",
    "ReviewerSettings",
    "RoundParameter",
    "RunSettings",
    "ServerSettings",
    "Settings",
    "WakeSettings",
    "load_config",
    "load_yaml",
    "rule_name",
    "with_limits_of",
    "written_at",
]
