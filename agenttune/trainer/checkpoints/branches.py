"""The branches of one run: each goes on from a step of another one."""

from __future__ import annotations

from agenttune.errors import UserError
from agenttune.protocol.events import BranchStarted
from agenttune.protocol.lineage import Lineage

MAIN = "main"


class BranchTree:
    """All branches of a run.

    Attributes:
        known: By name.
        current: The one that training is on.
    """

    def __init__(self) -> None:
        self.known = {MAIN: BranchStarted(name=MAIN)}
        self.current = MAIN

    def new_name(self, asked: str | None = None) -> str:
        """The name for a new branch.

        Raises:
            UserError: There is a branch of that name.
        """
        if asked is None:
            number = len(self.known)
            while f"branch-{number}" in self.known:
                number += 1
            return f"branch-{number}"
        if asked in self.known:
            raise UserError(
                f"there is a branch {asked!r} already; choose another name than {', '.join(self.known)}",
                field="branch_name",
            )
        return asked

    def start(self, name: str, parent: str, from_step: int, checkpoint_id: str | None = None) -> BranchStarted:
        """Go on as a new branch, at a step of its parent.

        Args:
            name: Of the new branch.
            parent: The branch that it leaves.
            from_step: The last step of the parent that belongs to it too.
            checkpoint_id: The checkpoint that was restored; None where the loop itself began again.
        """
        started = BranchStarted(name=name, parent=parent, from_step=from_step, checkpoint_id=checkpoint_id)
        self.known[name], self.current = started, name
        return started

    def lineage(self) -> Lineage:
        """What the current branch stands on."""
        return Lineage.of(self.current, self.known.values())
