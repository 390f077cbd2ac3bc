"""A live client, as a dashboard is one: `python -m benchmarks.core.live_client URL RUN` takes in every frame."""

from __future__ import annotations

import sys

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect


def main() -> None:
    url, run_id = sys.argv[1:]
    address = f"{url.replace('http', 'ws', 1)}/api/v1/runs/{run_id}/events/live?since=0&points=true"
    frames = 0
    try:
        with connect(address, max_size=None) as socket:
            for _ in socket:
                frames += 1
    except ConnectionClosed:
        pass  # the server or the measurement has ended
    print(f"{frames} frames")


if __name__ == "__main__":
    main()
