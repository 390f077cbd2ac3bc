"""`python -m agenttune.server`: the control server as `control.discovery.ensure_server` starts it."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import get_args

from agenttune.config import DEFAULT_PORT
from agenttune.control.discovery import PORT_IN_USE_EXIT, TOKEN_ENV
from agenttune.errors import AgenttuneError, PortInUse
from agenttune.server.auth.identity import LocalRole
from agenttune.server.log_throttle import Repeats
from agenttune.server.process import REQUEST_S, serve


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m agenttune.server", description="Serve a folder of runs.")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), help="folder of runs")
    parser.add_argument("--host", default="127.0.0.1", help="address to bind; anything but loopback needs a token")
    parser.add_argument(
        "--port", type=int, default=None, help=f"0 takes a free one; default: {DEFAULT_PORT} or the next"
    )
    parser.add_argument("--linger-s", type=float, default=None, help="end after so many seconds without use")
    parser.add_argument("--token-env", default=TOKEN_ENV, help="environment variable that holds the token")
    roles = get_args(LocalRole)
    parser.add_argument("--local-role", choices=roles, default="agent", help="role of who sends no token")
    parser.add_argument("--request-s", type=float, default=REQUEST_S, help="seconds that a client has for a request")
    parser.add_argument("--allow-origin", action="append", default=[], help="of pages of others that may use it")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for handler in logging.getLogger().handlers:
        handler.addFilter(Repeats())
    try:
        serve(
            given.runs_dir,
            given.host,
            given.port,
            os.environ.get(given.token_env),
            given.linger_s,
            local_role=given.local_role,
            token_env=given.token_env,
            request_s=given.request_s,
            allowed_origins=given.allow_origin,
        )
    except AgenttuneError as error:
        sys.stderr.write(f"{error}\n")
        return PORT_IN_USE_EXIT if isinstance(error, PortInUse) else 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
