"""The only door to a trainer: submit, observe, follow, decide, record.

`Control` is what the agent loop, the page and the command line see. `LocalControl` works on the runs folder itself;
`HttpControl` (`http.py`) asks a control server, which uses a `LocalControl`. One gate serves all.
"""

from agenttune.control.control import AgentRecord, Control, Decision
from agenttune.control.local import LocalControl
from agenttune.control.reader import READER

__all__ = ["READER", "AgentRecord", "Control", "Decision", "LocalControl"]
