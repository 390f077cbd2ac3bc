"""The one interface to runs: read, submit, decide, record.

`Control` (`control.py`) is what the agent loop, the server's routes, the views and the command line use. `LocalControl`
works on the runs folder itself; `HttpControl` (`http.py`) asks a control server, which uses a `LocalControl`. So every
proposal passes the same gate. The reads are those of `protocol/reads.py`; `local.py` answers them from the log.

May know `gate/` and `store/`; knows nothing of who uses it.
"""

from agenttune.control.control import AgentRecord, ApprovalDecision, Control
from agenttune.control.local import LocalControl
from agenttune.control.reader import READER

__all__ = ["READER", "AgentRecord", "ApprovalDecision", "Control", "LocalControl"]
