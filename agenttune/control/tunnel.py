"""How somebody at another machine reaches a control server that listens on the machine of rank 0 alone."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from urllib.parse import urlsplit


def tunnel(url: str, host: str | None = None) -> str:
    """The host, the port and the `ssh -L` line for a server's address.

    Args:
        url: The server's, as its own machine calls it.
        host: That machine's name; by default this one's.
    """
    host, port = host or socket.getfqdn(), urlsplit(url).port or 80
    return (
        f"the control server is beside rank 0, on host {host}, port {port}; from your own machine: "
        f"ssh -N -L {port}:127.0.0.1:{port} {host}  and then http://127.0.0.1:{port}"
    )


def is_on_several_nodes(world_size: int, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether a job's processes are on more machines than this one, as far as its launcher says.

    Args:
        world_size: Number of processes.
        environ: torchrun says how many of them are here, Slurm how many machines there are.
    """
    here = environ.get("LOCAL_WORLD_SIZE", "")
    if here.isdecimal():
        return int(here) < world_size
    nodes = environ.get("SLURM_STEP_NUM_NODES") or environ.get("SLURM_NNODES") or "1"
    return world_size > 1 and nodes.isdecimal() and int(nodes) > 1
