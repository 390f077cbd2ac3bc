"""What policies that are made of other policies have in common, and the walk over all parts of one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from agenttune.policy.base import Policy


@runtime_checkable
class Interruptible(Protocol):
    """A policy that cannot always decide, such as one that needs a language model."""

    def unavailable(self) -> str:
        """Why it could not decide now, in a few words; nothing if it could."""


@runtime_checkable
class Notable(Protocol):
    """A policy that has something to say before a run starts."""

    @property
    def notice(self) -> str:
        """One line for whoever starts the run, or nothing."""


@runtime_checkable
class Composite(Protocol):
    """A policy that is made of others."""

    @property
    def parts(self) -> tuple[Policy, ...]: ...


def unavailable(policy: Policy) -> str:
    """Why a policy could not decide now; nothing if it could, as all rules can."""
    return policy.unavailable() if isinstance(policy, Interruptible) else ""


def notice_of(policy: Policy) -> str:
    """What a policy has to say before a run starts, or nothing."""
    return policy.notice if isinstance(policy, Notable) else ""


def walk(policy: Policy) -> Iterator[Policy]:
    """A policy and all that it is made of, outermost first."""
    yield policy
    if isinstance(policy, Composite):
        for part in policy.parts:
            yield from walk(part)


@dataclass(eq=False)
class Wrapper:
    """A policy around one other; by default it can decide when the inner one can.

    Attributes:
        inner: The policy inside.
        title: Its own name; by default it has that of the inner one.
    """

    inner: Policy
    title: str = field(default="", kw_only=True)

    @property
    def name(self) -> str:
        return self.title or self.inner.name

    @property
    def parts(self) -> tuple[Policy, ...]:
        return (self.inner,)

    @property
    def notice(self) -> str:
        return notice_of(self.inner)

    def unavailable(self) -> str:
        return unavailable(self.inner)
