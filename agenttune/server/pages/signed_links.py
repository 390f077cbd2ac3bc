"""Signed one-time links: whoever holds one may decide on one request, as it was shown, until the link expires.

`sign` makes one; `follow` finds the request that waits behind it, or says why nothing can be decided by it.

A link works once because a request is decided once: the log refuses the second decision. So nothing is kept of links
but the key that signs them, and a link stays good when the server is started again.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import secrets
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from itsdangerous import BadData, URLSafeSerializer
from pydantic import ValidationError

from agenttune.control import LocalControl
from agenttune.errors import StoreFault, SystemFault, UnknownCommandId, UnknownRun, UserError
from agenttune.protocol.deadlines import is_over
from agenttune.protocol.proposals import ApprovalRequest, Author, CommandRecord, Record, State
from agenttune.protocol.text import utc_time

logger = logging.getLogger(__name__)
T = TypeVar("T")
HOLDER = Author(principal="operator", name="link")
"""Behind a link decides whoever holds it; nothing is known of them."""
UNDECIDED = "Nothing was decided"
KEY_FILE = ".links.key"
"""In the runs folder. Who can read it can make links; deleting it ends all links that were sent."""
KEY_BYTES = 32
"""As many as SHA-256 gives (RFC 2104 advises no fewer)."""
MOST_CHARACTERS = 2000
"""Longer tokens are not looked at; the longest real one has about 800 (a run's name may take 255 bytes)."""


class Link(Record):
    """What a link lets its holder do.

    Attributes:
        digest: Of the request's command: what was shown is what runs.
        expires_at_s: Unix time from which it does nothing any more.
    """

    purpose: Literal["decide"] = "decide"
    run_id: str
    command_id: str
    digest: str
    expires_at_s: float


def sign(link: Link, key: bytes) -> str:
    """The link as a token of letters, digits, `.`, `-` and `_`."""
    return _serializer(key).dumps(link.model_dump(mode="json"))


def read(token: str, key: bytes) -> Link | None:
    """What a token says; None if this key did not sign it, whatever it says. Expiry is left to the caller."""
    if len(token) > MOST_CHARACTERS:
        return None
    try:
        link = Link.model_validate(_serializer(key).loads(token))
    except (BadData, ValidationError, ValueError):  # forged, or signed by another version of agenttune
        return None
    # Base64 may be written in several ways; only the one that was sent is a link.
    return link if sign(link, key) == token else None


def _serializer(key: bytes) -> URLSafeSerializer:
    settings = {"key_derivation": "hmac", "digest_method": hashlib.sha256}
    return URLSafeSerializer(key, salt="agenttune link", signer_kwargs=settings)


def find_key(runs_dir: Path) -> bytes | None:
    """The key of a runs folder; None if no link was ever made there.

    Raises:
        UserError: Others may read it, or it is damaged.
        StoreFault: It cannot be read.
    """
    path = runs_dir / KEY_FILE
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            key = file.read(KEY_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreFault(f"cannot read {path}: {error.strerror}") from error
    if mode & 0o077:
        raise UserError(f"others may read {path}, so they could make links: delete it, and new links get a new key")
    if len(key) != KEY_BYTES:
        raise UserError(f"{path} is damaged: delete it, and new links get a new key")
    return key


def make_key(runs_dir: Path) -> bytes:
    """The key of a runs folder, made if there is none; of several makers at once one wins, and all get its key.

    Raises:
        UserError, StoreFault: As for `find_key`.
    """
    known = find_key(runs_dir)
    if known is not None:
        return known
    aside = runs_dir / f"{KEY_FILE}.{os.getpid()}.{secrets.token_hex(4)}"
    try:
        with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
        with contextlib.suppress(FileExistsError):
            os.link(aside, runs_dir / KEY_FILE)
    except OSError as error:
        raise StoreFault(f"cannot write {runs_dir / KEY_FILE}: {error.strerror}") from error
    finally:
        aside.unlink(missing_ok=True)
    made = find_key(runs_dir)
    if made is None:
        raise StoreFault(f"{runs_dir / KEY_FILE} was deleted while it was made")
    return made


# -- followed ------------------------------------------------------------------------------------------------------


class LinkRefused(Exception):
    """Nothing can be decided by a link; says why, and nothing of any other request: a control-flow signal."""

    def __init__(self, status: int, title: str, words: str = "") -> None:
        super().__init__(title)
        self.status, self.title, self.words = status, title, words

    @property
    def sentence(self) -> str:
        return f"{self.title}. {self.words}".strip()


@dataclass(frozen=True)
class FollowedLink:
    """The request that a link is for.

    Attributes:
        digest: Of what was shown to whom the link was sent.
        ends_s: Unix time from which it does nothing any more.
    """

    run_id: str
    record: CommandRecord
    request: ApprovalRequest
    digest: str
    ends_s: float


def follow(control: LocalControl, token: str, use: Callable[[FollowedLink], T]) -> T:
    """Do something with the request that a link is for.

    Raises:
        LinkRefused: The link is forged or over, the request is no longer there or waits no longer, or the log cannot be
            read.
        UserError: As `use` does.
    """
    try:
        return use(_followed(control, token))
    except (UnknownRun, UnknownCommandId):
        raise LinkRefused(410, "This request is no longer there") from None
    except SystemFault as fault:
        logger.error("a link could not be followed: %s", fault)
        raise LinkRefused(503, "This server cannot read the run's log now", "Try again later.") from None


def _followed(control: LocalControl, token: str) -> FollowedLink:
    key = find_key(control.runs_dir)
    link = None if key is None else read(token, key)
    if link is None:
        raise LinkRefused(403, "This link is not valid", "It is incomplete, or was not made by this server.")
    record = control.command(link.run_id, link.command_id)
    if record.state is not State.PROPOSED or record.request is None:
        raise _no_longer(record)
    if record.request.digest != link.digest:
        raise LinkRefused(409, UNDECIDED, "The request is not the one that this link was made for.")
    ends_s = min(link.expires_at_s, record.request.expires_at_s)
    if control.now_s() >= link.expires_at_s or is_over(record.request, control.now()):
        words = f"It worked until {utc_time(ends_s)}. If the request still waits: agenttune approve list."
        raise LinkRefused(410, "This link has expired", words)
    return FollowedLink(link.run_id, record, record.request, link.digest, ends_s)


def _no_longer(record: CommandRecord) -> LinkRefused:
    kind, state, verdict = record.proposal.command.kind, record.state, record.verdict
    words = (
        f"{kind} is {state.value}." if verdict is None else f"{kind} was {verdict.decision} by {verdict.decided_by}."
    )
    if verdict is not None and state.value not in (State.QUEUED, verdict.decision):
        words += f" It is {state.value} now."
    status = 410 if state in (State.EXPIRED, State.SUPERSEDED) else 409
    return LinkRefused(status, "This no longer waits for a decision", words)
