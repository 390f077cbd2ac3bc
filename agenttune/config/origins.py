"""Origins of pages: who may use a control server from a browser beside its own pages."""

from __future__ import annotations

import re
from collections.abc import Collection

from agenttune.errors import UserError

_ORIGIN = re.compile(r"https?://([a-z0-9.-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?")


def check_origins(origins: Collection[str]) -> list[str]:
    """The origins, in small letters.

    Raises:
        UserError: One of them is none. `*` would let any page that somebody opens steer the runs of this machine, and
            `null` is the origin of pages of no origin at all.
    """
    found = [origin.lower() for origin in origins]
    for origin in found:
        if not _ORIGIN.fullmatch(origin):
            raise UserError(
                f"{origin!r:.100} is no origin of a page: write each one out, as scheme, host and port without a path, "
                "such as http://localhost:5173; there is no '*'",
                field="server.allowed_origins",
            )
    return found
