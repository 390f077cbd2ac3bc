"""The branches of one run: each goes on from a step of another one."""

from __future__ import annotations

from dataclasses import dataclass

from agenttune.errors import UserError
from agenttune.protocol.events import BranchStarted

MAIN = "main"


@dataclass
class Branch:
    """A line of steps: those of `parent` up to `from_step`, then its own."""

    name: str
    parent: str | None = None
    from_step: int = 0
    checkpoint_id: str | None = None


class Branches:
    """All branches of a run.

    Attributes:
        known: By name.
        current: The one that training is on.
    """

    def __init__(self) -> None:
        self.known = {MAIN: Branch(MAIN)}
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
        self.known[name] = Branch(name, parent, from_step, checkpoint_id)
        self.current = name
        return BranchStarted(name=name, parent=parent, from_step=from_step, checkpoint_id=checkpoint_id)

    def lineage(self) -> dict[str, int | None]:
        """The current branch and its parents, each with its last step that belongs to the current run (None: all)."""
        last: dict[str, int | None] = {self.current: None}
        branch = self.known[self.current]
        while branch.parent is not None and branch.parent in self.known:
            # Where a branch was left at a step before its own start, less of its parent counts.
            later = last[branch.name]
            last[branch.parent] = branch.from_step if later is None else min(branch.from_step, later)
            branch = self.known[branch.parent]
        return last
