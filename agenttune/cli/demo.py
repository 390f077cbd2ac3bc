"""A recorded rescue, played into the dashboard: all of agenttune in a minute, without training anything."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from agenttune.cli.app import app, stop_on_signals
from agenttune.errors import AgenttuneError, AlreadyDecided

if TYPE_CHECKING:
    from agenttune.control.discovery import ServerAddress
    from agenttune.replay.demo_player import DemoPlayer

STEPS = (
    "watch   the loss falls, then the rate gets too high and it blows up",
    "answer  the agent asks to go back to a good state with a lower rate: approve it, or see what a no costs",
    "read    why it was asked, and whether it helped: click the mark in the curve",
)
LINGER_S = 30.0
"""A server that nobody ends, as after `kill -9`, ends itself so long after its last page (guess)."""
ANSWER_POLL_S = 0.1


@app.command()
def demo(
    speed: Annotated[float, typer.Option(min=0.1, max=100, help="So many times as fast.")] = 1.0,
    open_: Annotated[bool, typer.Option("--open", help="Open the dashboard in your browser.")] = False,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Of the page. Default: a free one.")] = 0,
    answer: Annotated[
        Literal["approve", "reject"] | None,
        typer.Option(help="Give this answer without you, and end."),
    ] = None,
) -> None:
    """Play a recorded rescue into the dashboard; you answer the agent. Nothing is trained, and nothing is kept."""
    from agenttune.control.discovery import ensure_server
    from agenttune.replay.demo_player import DemoPlayer
    from agenttune.replay.demo_recording import read_demo

    stop, failed = threading.Event(), list[AgenttuneError]()
    got = stop_on_signals(stop)
    folder = Path(tempfile.mkdtemp(prefix="agenttune-demo-")).resolve()
    server: ServerAddress | None = None
    try:
        recording = read_demo()
        server = ensure_server(folder, port=port, linger_s=LINGER_S)
        threading.Thread(target=_stay, args=(server, stop), daemon=True).start()
        _tell(server, folder, open_)
        player = DemoPlayer(recording, folder, speed, sleep=stop.wait)
        try:
            if answer is not None:
                given = (folder, recording.asked, answer, stop, failed)
                threading.Thread(target=_answer, args=given, daemon=True).start()
            _play(player, recording.asked, stop)
            if answer is None and not stop.is_set():
                typer.echo("It is over; the page stays until Ctrl-C.")
                stop.wait()
        finally:
            player.close()
    finally:
        stop.set()
        if server is not None:
            _end(server)
        shutil.rmtree(folder, ignore_errors=True)
    if failed:
        raise failed[0]
    if got and answer is not None:
        raise typer.Exit(128 + got[0])


def _tell(server: ServerAddress, folder: Path, opens: bool) -> None:
    from agenttune.control.page_link import open_in_browser, page_link
    from agenttune.replay.demo_player import RUN_ID

    if sys.stdout.isatty():
        typer.echo(f"page    {page_link(server.url, folder, RUN_ID)[0]}")
    else:  # a file or a pipe is no place for a key
        typer.echo(f"page    {server.url}/runs/{RUN_ID}")
        typer.echo(f"sign in agenttune open {RUN_ID} --runs-dir {folder}")
    for step in STEPS:
        typer.echo(step)
    typer.echo("Ctrl-C ends it and removes all of it.")
    if opens and not open_in_browser(*page_link(server.url, folder, RUN_ID), folder):
        typer.echo("no browser was found to open the page with; open the link above")


def _play(player: DemoPlayer, asked: str, stop: threading.Event) -> None:
    """Play it, telling what a person must know who looks at the terminal only; the report at its end."""
    from rich.console import Console

    from agenttune.store.run_log import RunLog
    from agenttune.views.report import print_summary, read_journal

    status = player.play(lambda: typer.echo("The agent asks, and training is held: answer on the page, Approvals."))
    if stop.is_set() and status != "finished":
        return
    log = RunLog.open_to_read(player.log.folder)
    try:
        print_summary(Console(), read_journal(log))
    finally:
        log.close()


def _stay(server: ServerAddress, stop: threading.Event) -> None:
    """Keep the page to the end: when the run is over and nobody looks, its server would end."""
    import httpx

    from agenttune.control.discovery import HEALTH_PATH

    while not stop.wait(LINGER_S / 3):
        with contextlib.suppress(httpx.HTTPError):  # somebody has ended it, and the page with it
            httpx.get(f"{server.url}{HEALTH_PATH}", timeout=LINGER_S)


def _answer(folder: Path, asked: str, verdict: str, stop: threading.Event, failed: list[AgenttuneError]) -> None:
    """Give the answer that the command line asks for, as the page would; a fault ends the demo, which waits."""
    try:
        _answer_once_asked(folder, asked, verdict, stop)
    except AlreadyDecided:  # somebody was faster, on the page
        return
    except AgenttuneError as error:
        failed.append(error)
        stop.set()


def _answer_once_asked(folder: Path, asked: str, verdict: str, stop: threading.Event) -> None:
    from agenttune.control import LocalControl
    from agenttune.control.control import ApprovalDecision
    from agenttune.protocol.proposals import Author
    from agenttune.replay.demo_player import RUN_ID

    control = LocalControl(folder)
    while not stop.wait(ANSWER_POLL_S):
        for record in control.pending(RUN_ID):
            if record.command_id == asked and record.request is not None:
                author = Author(principal="operator", name="--answer")
                decision = ApprovalDecision.model_validate(
                    {"verdict": verdict, "digest": record.request.digest, "author": author}
                )
                control.decide(RUN_ID, asked, decision)
                return


def _end(server: ServerAddress) -> None:
    """End the control server that this demo has started."""
    import psutil

    try:
        process = psutil.Process(server.pid)
        process.terminate()
        process.wait(10)
    except psutil.TimeoutExpired:
        process.kill()
        process.wait()  # or it would write into a folder that is being removed
    except psutil.NoSuchProcess:
        return
