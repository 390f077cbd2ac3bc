"""How a loop is left that does not ask whether to stop."""

from __future__ import annotations


class TrainingStopped(SystemExit):
    """Raised between two steps to leave a loop that was told to stop and went on.

    A control-flow signal, no error: `except Exception` lets it pass, `finally` blocks run, and a script that does not
    catch it ends quietly with exit status 0.
    """
