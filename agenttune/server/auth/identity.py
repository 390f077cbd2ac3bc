"""Who asks: what the guard found out about a request, for every route."""

from __future__ import annotations

import glob
import hmac
from dataclasses import dataclass, replace
from typing import Literal

from agenttune.control.tokens import Token, TokenBook, covers
from agenttune.errors import Unauthorized
from agenttune.protocol.proposals import Author, Principal

LocalRole = Literal["agent", "viewer", "none"]
NAMELESS = "rest"
"""Who asks without a token and without a name."""


@dataclass(frozen=True)
class Identity:
    """Who asks.

    Attributes:
        principal: The role, which decides what is allowed.
        name: The token's; empty without one.
        via: The token for the log, its name and id; empty without one.
        runs: Patterns of run ids that may be seen; empty for all.
        token_id: To ask whether it still counts; empty without one that can end.
        by: What it is known by: a token that it sends, the cookie of a browser, or that it sits at this machine.
    """

    principal: Principal
    name: str = ""
    via: str = ""
    runs: tuple[str, ...] = ()
    token_id: str = ""
    by: Literal["token", "cookie", "local"] = "token"

    @classmethod
    def of(cls, token: Token) -> Identity:
        return cls(token.role, token.name, token.label, token.runs, token.id)

    def by_cookie(self) -> Identity:
        """The same, known by the cookie of a browser."""
        return replace(self, by="cookie")

    def sees(self, run_id: str) -> bool:
        return covers(self.runs, run_id)

    def is_for(self, run_id: str) -> bool:
        """Whether the token was made for this one run, as that which `agenttune run` and `attach` hand to an agent."""
        return self.runs == (glob.escape(run_id),)

    def author(self, principal: Principal | None = None, name: str = "") -> Author:
        """The author of what this identity writes into the log; by default of its own role."""
        return Author(principal=principal or self.principal, name=name or self.name or NAMELESS, via=self.via)


class Access:
    """Tells whose a bearer token is, and who somebody without one is.

    Args:
        book: Tokens of the runs folder; None where there is no folder.
        owners: The owner's token of the environment, called `owners_name` in the log.
        anonymous: Who somebody without a token is; None: nobody.
    """

    def __init__(
        self, book: TokenBook | None, owners: str | None, anonymous: Identity | None, owners_name: str = "environment"
    ) -> None:
        self._book = book
        self._owners = owners.encode() if owners is not None else None
        self._owner = Identity("operator", "owner", via=owners_name)
        self.anonymous = anonymous

    def of(self, offer: str) -> Identity | None:
        """Who sends this token; None if it is none, or no longer counts. Raises TokensUnusable."""
        given = offer.encode("utf-8", "replace")
        if self._owners is not None and hmac.compare_digest(given, self._owners):
            return self._owner
        token = self._book.find(offer) if self._book is not None else None
        return None if token is None else Identity.of(token)

    def exchange(self, key: str) -> tuple[str, Identity]:
        """A browser's secret for the key of a link, which works once, and who that browser is then.

        Raises:
            Unauthorized: The key was used already, or does not count (any longer).
            TokensUnusable: The folder's tokens cannot be read or written.
        """
        if self._book is None:
            raise Unauthorized("this server has no links", field="key")
        text, token = self._book.exchange(key)
        return text, Identity.of(token)

    def holds(self, identity: Identity) -> bool:
        """Whether who was let in before would be let in now."""
        return not identity.token_id or (self._book is not None and self._book.counts(identity.token_id))


def anonymous(local_role: LocalRole, is_token_wanted: bool) -> Identity | None:
    """Who somebody without a token is."""
    return None if is_token_wanted or local_role == "none" else Identity(local_role, by="local")
