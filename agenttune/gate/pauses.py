"""A person's pause: training stands where it stopped until a person lets it go on, whatever agents ask for."""

from __future__ import annotations

from collections.abc import Sequence

from agenttune.protocol.commands import PauseTraining, ResumeTraining
from agenttune.protocol.proposals import Author, CommandRecord, Proposal
from agenttune.protocol.run_info import RunInfo

PERSON = "operator"
"""The role of people. Its name also begins what a verdict says of who decided (`person`)."""


def is_person(decided_by: str) -> bool:
    """Whether a verdict says that a person has decided, rather than a rule, a model or time that ran out."""
    return decided_by.startswith(f"{PERSON}:")


def pause_against(proposal: Proposal, info: RunInfo, queued: Sequence[CommandRecord]) -> Author | None:
    """The person whose pause an agent's command would end or go back over; None if there is no such pause.

    Args:
        proposal: What is asked.
        info: The run as it stands.
        queued: What the trainer will apply before, in its order.
    """
    if proposal.author.principal != "agent" or not any(one.leaves_pause for one in proposal.command.alternatives()):
        return None
    holder = info.paused_by
    for record in queued:
        author = record.proposal.author
        if isinstance(record.command, PauseTraining) and (holder is None or author.principal == PERSON):
            holder = author
        elif isinstance(record.command, ResumeTraining):
            holder = None
    return holder if holder is not None and holder.principal == PERSON else None
