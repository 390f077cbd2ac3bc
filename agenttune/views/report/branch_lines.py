"""The branches of a run, in words."""

from __future__ import annotations

from agenttune.protocol.summary import BranchSummary
from agenttune.protocol.text import clean


def branch_words(branch: BranchSummary) -> str:
    """How a branch began, and what of it the run stands on."""
    start = "" if branch.parent is None else f" from {clean(branch.parent, 60)} at step {branch.from_step}"
    checkpoint = f" (checkpoint {clean(branch.checkpoint_id, 80)})" if branch.checkpoint_id else ""
    if branch.is_current:
        state = "the run is here"
    elif branch.stands_to is None:
        state = "the run stands on all of it"
    elif branch.stands_to < 0:
        state = "left behind"
    else:
        state = f"the run stands on it to step {branch.stands_to}, the rest was left behind"
    return f"{clean(branch.name, 60)}{start}{checkpoint}: to step {branch.last_step}, {state}"
