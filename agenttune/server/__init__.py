"""The control server: REST and live events over the runs folder, in a process of its own."""

from agenttune.server.app import create_app
from agenttune.server.running import serve

__all__ = ["create_app", "serve"]
