"""From settings to processes: the control server, the training script, the agent beside it, and their end."""

from agenttune.launch.config_file import EXAMPLE, config_text
from agenttune.launch.plan import Plan, make_plan
from agenttune.launch.session import launch

__all__ = ["EXAMPLE", "Plan", "config_text", "launch", "make_plan"]
