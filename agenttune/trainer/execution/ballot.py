"""A command on several ranks: on all of them, or on none.

Each rank checks, and the ranks vote before anything is written; each writes and reads back, and they vote again, with a
sum over what they read. One that could not is named, and the others undo what they did.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import NamedTuple

from agenttune.errors import AgenttuneError, RanksApart, UserError
from agenttune.trainer.commands.outcomes import AwaitLearningRate, AwaitRestore, Done, NotYet, Outcome
from agenttune.trainer.distributed.channel import RankChannel
from agenttune.trainer.distributed.steered_values import SteeredValues, said

logger = logging.getLogger("agenttune")
PROBLEM_CHARACTERS = 400


class Readiness(IntEnum):
    """What a rank can do; the least of all ranks counts."""

    CANNOT = 0
    NOT_YET = 1
    CAN = 2


class Vote(NamedTuple):
    """What one rank says.

    Attributes:
        verdict: Whether it can, or could.
        problem: Why not.
        is_done: It has come to its end, and read back what it wrote.
        can_undo: It has written something, which it can undo.
        digest: Sum over what it read back.
    """

    verdict: Readiness
    problem: str = ""
    is_done: bool = False
    can_undo: bool = False
    digest: str = ""


class VotedDown(UserError):
    """Another rank cannot; nothing is to be written here."""

    def __init__(self, votes: Sequence[Vote]) -> None:
        super().__init__(_refusal(votes))
        self.votes = votes


class Ballot:
    """The votes of one command.

    Args:
        channel: To the other ranks.
        values: What commands can change.
    """

    def __init__(self, channel: RankChannel, values: SteeredValues) -> None:
        self._channel, self._values = channel, values

    def agree(self) -> None:
        """All is checked here and nothing written: go on where all ranks are as far.

        Raises:
            VotedDown: One is not.
        """
        votes = self._channel.gather(Vote(Readiness.CAN))
        if any(vote.verdict is not Readiness.CAN or vote.is_done for vote in votes):
            raise VotedDown(votes)

    def carry_out(self, apply: Callable[[], Outcome]) -> Outcome:
        """Apply a command on this rank, as all others do at the same time.

        Returns:
            What came of it, which is the same on all ranks.

        Raises:
            UserError: A rank could not, and is named; nothing has changed on any.
            RanksApart: They could not all be put back.
        """
        outcome: Outcome | None = None
        try:
            outcome = apply()
        except VotedDown as down:
            votes: Sequence[Vote] = down.votes
        except RanksApart:
            raise
        except Exception as error:
            if not isinstance(error, AgenttuneError):
                logger.exception("a command failed on rank %d", self._channel.rank)
            votes = self._channel.gather(Vote(Readiness.CANNOT, in_words(error)))
        else:
            votes = self._channel.gather(self._vote(outcome))
        if outcome is not None and _are_alike(votes):
            return outcome
        if any(vote.is_done for vote in votes):
            self._put_back(outcome)
        if min(vote.verdict for vote in votes) is Readiness.NOT_YET:
            return NotYet()
        raise UserError(_refusal(votes))

    def _vote(self, outcome: Outcome) -> Vote:
        if isinstance(outcome, NotYet):
            return Vote(Readiness.NOT_YET, is_done=True)
        can_undo = _undo_of(outcome) is not None
        return Vote(
            Readiness.CAN, is_done=True, can_undo=can_undo, digest=f"{_digest(outcome)} {self._values.digest()}"
        )

    def _put_back(self, outcome: Outcome | None) -> None:
        """Undo what was done here, and see that all ranks stand alike."""
        problem, undo = "", _undo_of(outcome)
        try:
            if undo is not None:
                undo()
        except Exception as error:
            logger.exception("what a command did could not be put back on rank %d", self._channel.rank)
            problem = in_words(error)
        stands = self._channel.gather((problem, self._values.read()))
        problems = [f"rank {rank} could not put it back: {text}" for rank, (text, _) in enumerate(stands) if text]
        values = [found for _, found in stands]
        differences = self._values.differing(values)
        if problems or differences:
            told = filter(None, [*problems, said(values, differences)])
            raise RanksApart(f"the ranks no longer stand alike: {'; '.join(told)}")


def in_words(error: Exception) -> str:
    """What a rank says of its error; never empty."""
    text = str(error) if isinstance(error, AgenttuneError) else f"{type(error).__name__}: {error}"
    return text[:PROBLEM_CHARACTERS] or type(error).__name__


def _are_alike(votes: Sequence[Vote]) -> bool:
    """Whether every rank has done it, and reads back the same."""
    return len({(vote.verdict, vote.digest) for vote in votes}) == 1 and all(
        vote.is_done and vote.verdict is not Readiness.CANNOT for vote in votes
    )


def _refusal(votes: Sequence[Vote]) -> str:
    """Why it is not done, naming the first rank that is the reason."""
    are_put_back = any(vote.can_undo for vote in votes)
    then = "put back on all ranks" if are_put_back else "nothing has changed on any rank"
    for rank, vote in enumerate(votes):
        if vote.verdict is Readiness.CANNOT:
            others = "" if all(v.problem == vote.problem for v in votes) else f"rank {rank}: "
            return f"{others}{vote.problem}" if not others else f"{others}{vote.problem}; {then}"
    other = next((rank for rank, vote in enumerate(votes) if vote != votes[0]), 0)
    return f"rank {other} reads back another value than rank 0; {then}"


def _digest(outcome: Outcome) -> str:
    """A sum over what this rank read back."""
    done = outcome.done if isinstance(outcome, AwaitLearningRate) else outcome
    told: list[object] = [type(outcome).__name__]
    if isinstance(done, Done):
        told += [(change.name, change.effective, change.base, change.groups) for change in done.changes]
    elif isinstance(done, AwaitRestore):
        told += [done.checkpoint.checkpoint_id, done.branch, done.state.step]
    return hashlib.blake2b(repr(told).encode(), digest_size=8).hexdigest()


def _undo_of(outcome: Outcome | None) -> Callable[[], None] | None:
    done = outcome.done if isinstance(outcome, AwaitLearningRate) else outcome
    return done.undo if isinstance(done, Done) else None
