"""Which run a client of v1 means: its addresses name none, as v1 had one run a port.

A client stays with the run that it was shown. It is known by a cookie, which sessions and pages of this server keep; by
the uuid that it has sent before (v1's tuner sends one for all its commands of a kind); else by where it comes
from: the machine and the page. No command goes to a run that its client was not shown, and none without `?run=` while
several runs are live.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections import OrderedDict
from dataclasses import dataclass, field

from starlette.requests import HTTPConnection
from starlette.responses import Response

from agenttune.control import LocalControl
from agenttune.control.control import LATEST
from agenttune.errors import UnknownRun, UserError
from agenttune.protocol.run_info import RunInfo
from agenttune.server.auth.identity import Identity
from agenttune.server.auth.rights import require_run
from agenttune.server.request_context import check_length

Place = tuple[str, str]
"""Whence a client asks: its machine's address and the origin of its page, empty for a program."""
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
KEPT = 10_000
"""Places and uuids that are remembered (guess: far more than one server's clients have in a day)."""


@dataclass
class Remembered:
    """The newest entries of a mapping; safe to share between threads."""

    _entries: OrderedDict[object, str] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def put(self, key: object, run_id: str) -> None:
        with self._lock:
            self._entries[key] = run_id
            self._entries.move_to_end(key)
            while len(self._entries) > KEPT:
                self._entries.popitem(last=False)

    def get(self, key: object) -> str | None:
        with self._lock:
            return self._entries.get(key)


class V1Clients:
    """Remembers what each client of v1 was shown.

    Args:
        control: Of the server's runs.
    """

    def __init__(self, control: LocalControl) -> None:
        self._control = control
        self._shown, self._sent = Remembered(), Remembered()
        # Cookies know no ports: another server's of the same machine is none of ours.
        self._cookie = f"agenttune_run_{hashlib.sha256(str(control.runs_dir).encode()).hexdigest()[:8]}"

    def to_read(self, connection: HTTPConnection, who: Identity, anew: bool = False) -> str:
        """The run that a client reads: the one it names, else the one it was shown, else the newest that is live.

        Args:
            connection: Its request.
            who: Who asks.
            anew: Whether it begins here: then a run that has ended is left for one that lives.

        Raises:
            UnknownRun: There is none, or none that this client may see.
        """
        named = self._named(connection, who)
        if named is not None:
            return named
        runs = self._runs(who)
        by_id = {info.run_id: info for info in runs}
        place = _place(connection)
        cookie = by_id.get(connection.cookies.get(self._cookie, ""))
        page = by_id.get(self._shown.get(place) or "") if place[1] else None
        shown = cookie or (page if page is not None and page.is_live else None)
        if shown is None or (anew and not shown.is_live):
            shown = next((info for info in runs if info.is_live), next(iter(runs), None))
        if shown is None:
            raise UnknownRun(f"no run in {self._control.runs_dir} yet", field="run", allowed=[])
        self._shown.put(place, shown.run_id)
        return shown.run_id

    def to_command(self, connection: HTTPConnection, who: Identity, uuid: str) -> str:
        """The run that a command is for: the one it names, else the only live one, if the client was shown no other.

        Raises:
            UnknownRun: There is none, or none that this client may see.
            UserError: Several are live, or the one that the client was shown is not; names those that are.
        """
        named = self._named(connection, who)
        if named is None:
            named = self._meant(connection, who, uuid)
        if _UUID.fullmatch(uuid):  # nobody else has thought up the same; a mere `1` has no owner
            self._sent.put(uuid, named)
        return named

    def _meant(self, connection: HTTPConnection, who: Identity, uuid: str) -> str:
        runs = self._runs(who)
        if not runs:
            raise UnknownRun(f"no run in {self._control.runs_dir} yet", field="run", allowed=[])
        live = [info.run_id for info in runs if info.is_live]
        if len(live) > 1:
            raise UserError(
                f"several runs are live ({', '.join(live)}); say which is meant: /api/command/?run=ID",
                field="run",
                allowed=live,
            )
        by_id = {info.run_id: info for info in runs}
        ties = (connection.cookies.get(self._cookie), self._sent.get(uuid), self._shown.get(_place(connection)))
        shown = next((by_id[tie] for tie in ties if tie in by_id), None)
        if shown is None:
            return live[0] if live else runs[0].run_id
        if live and shown.run_id not in live:
            raise UserError(
                f"run {shown.run_id}, which you were shown, is {shown.status} and takes no more commands; live is "
                f"{live[0]}: ask /api/get_info/ anew to go on with it, or name it with ?run={live[0]}",
                field="run",
                allowed=live,
            )
        return shown.run_id

    def remember(self, response: Response, run_id: str) -> None:
        """Have the client say from now on which run it was shown; programs without cookies drop it."""
        response.set_cookie(self._cookie, run_id, httponly=True, samesite="lax")

    def _named(self, connection: HTTPConnection, who: Identity) -> str | None:
        given = connection.query_params.getlist("run")
        if len(given) > 1:
            raise UserError(f"the query parameter 'run' is given {len(given)} times; give it once", field="run")
        if not given or given[0] == LATEST:
            return None
        check_length(self._control, given[0])
        require_run(who, given[0])
        return given[0]

    def _runs(self, who: Identity) -> list[RunInfo]:
        """Newest first."""
        return [info for info in self._control.runs() if who.sees(info.run_id)]


def _place(connection: HTTPConnection) -> Place:
    host = connection.client.host if connection.client is not None else ""
    return host, connection.headers.get("origin", "")
