"""From settings to processes: the control server, the training script, the agent beside it, and their end.

`study/` carries out several runs in a row, `estimate/` says beforehand what a run costs. Knows all rooms below `cli/`.
"""

from agenttune.launch.config_file import EXAMPLE, config_text
from agenttune.launch.run_plan import Plan, make_plan
from agenttune.launch.supervisor import launch

__all__ = ["EXAMPLE", "Plan", "config_text", "launch", "make_plan"]
