"""The only door to a trainer: submit, observe, follow, decide, record.

`Control` is what the agent loop, the page and the command line see. `LocalControl` works on the runs folder itself;
`HttpControl` (`http.py`) asks a control server, which uses a `LocalControl`. One gate serves all.
"""

from agenttune.control.control import (
    CHECKPOINT_KINDS,
    MOST_CHECKPOINTS,
    AgentRecord,
    Control,
    Decision,
    existing_checkpoints,
)
from agenttune.control.local import READER, LocalControl

__all__ = [
    "CHECKPOINT_KINDS",
    "MOST_CHECKPOINTS",
    "READER",
    "AgentRecord",
    "Control",
    "Decision",
    "LocalControl",
    "existing_checkpoints",
]
