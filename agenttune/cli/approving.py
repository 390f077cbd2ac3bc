"""Deciding on proposals that wait, from another shell."""

from __future__ import annotations

import getpass
import json
import time
from typing import Annotated, Any

import typer

from agenttune.cli.app import Json, app
from agenttune.errors import UserError

group = typer.Typer(help="Decide on commands that wait for a person.", no_args_is_help=True, add_completion=False)
app.add_typer(group, name="approve")

Url = Annotated[str, typer.Option("--url", help="Of the control server.")]
RunName = Annotated[str, typer.Option("--run", help="Id of the run; default: the newest.")]
CommandName = Annotated[str, typer.Argument(metavar="ID", help="The command's id, or its beginning.")]
Reason = Annotated[str, typer.Option("--reason", help="Goes back to who asked.")]
DEFAULT_URL = "http://127.0.0.1:7007"
WATCH_POLL_S = 1.0


@group.command("list")
def list_(url: Url = DEFAULT_URL, run: RunName = "latest", json_: Json = False) -> None:
    """List what waits for a decision."""
    from agenttune.terminal import clean

    with _control(url) as control:
        waiting, allowed = control.pending(run), control.info(run).standing
    if json_:
        typer.echo(json.dumps([record.model_dump(mode="json") for record in waiting], indent=2))
        return
    if not waiting:
        typer.echo("nothing waits for a decision")
    for record in waiting:
        typer.echo(_line(record))
    for standing in allowed:
        typer.echo(f"always approved: {standing.kind} under {standing.rule}, by {clean(standing.by, 60)}")


@group.command()
def show(command_id: CommandName, url: Url = DEFAULT_URL, run: RunName = "latest", json_: Json = False) -> None:
    """Show one request: what it would change, on which evidence, and what happens if nobody answers."""
    with _control(url) as control:
        record, info = _find(control, run, command_id), control.info(run)
    if json_:
        typer.echo(record.model_dump_json(indent=2))
        return
    for line in _details(record, info):
        typer.echo(line)


@group.command()
def yes(
    command_id: CommandName,
    reason: Reason = "",
    always: Annotated[bool, typer.Option("--always", help="Also all further ones of its kind and rule.")] = False,
    url: Url = DEFAULT_URL,
    run: RunName = "latest",
) -> None:
    """Approve a command as it was shown."""
    with _control(url) as control:
        _send(control, run, _find(control, run, command_id), "approve", reason, None, always)


@group.command()
def never(
    kind: Annotated[str, typer.Argument(help="Kind of command, such as update_optimizer.")],
    url: Url = DEFAULT_URL,
    run: RunName = "latest",
) -> None:
    """Take back `yes --always`: commands of a kind wait for a person again."""
    from agenttune.proposals import Author

    with _control(url) as control:
        for standing in control.end_standing(run, kind, Author(principal="operator", name=getpass.getuser())):
            typer.echo(f"{standing.kind} under {standing.rule} waits for a person again")


@group.command()
def no(command_id: CommandName, reason: Reason = "", url: Url = DEFAULT_URL, run: RunName = "latest") -> None:
    """Reject a command; the reason goes back to who asked."""
    with _control(url) as control:
        _send(control, run, _find(control, run, command_id), "reject", reason)


@group.command()
def escalate(command_id: CommandName, reason: Reason = "", url: Url = DEFAULT_URL, run: RunName = "latest") -> None:
    """Leave a command to the next approver of its rule; if there is none, it is rejected."""
    with _control(url) as control:
        _send(control, run, _find(control, run, command_id), "escalate", reason)


@group.command()
def edit(
    command_id: CommandName,
    arguments: Annotated[str, typer.Argument(help='Arguments to replace, as JSON: {"lr": 0.001}.')],
    reason: Reason = "",
    url: Url = DEFAULT_URL,
    run: RunName = "latest",
) -> None:
    """Approve a command with other arguments; the same schema and guardrails hold for them."""
    from agenttune.gate import with_arguments

    try:
        changed = json.loads(arguments)
    except ValueError as error:
        raise UserError(f"the arguments are not JSON: {error}", field="arguments") from None
    if not isinstance(changed, dict):
        raise UserError('the arguments are a JSON object, such as {"lr": 0.001}', field="arguments")
    with _control(url) as control:
        record = _find(control, run, command_id)
        _send(control, run, record, "edit", reason, with_arguments(record.proposal.command, changed))


@group.command()
def watch(url: Url = DEFAULT_URL, run: RunName = "latest") -> None:
    """Print requests as they come, until Ctrl-C."""
    seen: set[str] = set()
    with _control(url) as control:
        while True:
            for record in control.pending(run):
                if record.command_id not in seen:
                    seen.add(record.command_id)
                    for line in [*_details(record, control.info(run)), ""]:
                        typer.echo(line)
            time.sleep(WATCH_POLL_S)


def _control(url: str) -> Any:
    from agenttune.client import HttpControl
    from agenttune.owner import OwnerToken

    return HttpControl(url, OwnerToken(url))


def _find(control: Any, run: str, name: str) -> Any:
    waiting = control.pending(run)
    found = [record for record in waiting if record.command_id.startswith(name)]
    if len(found) == 1:
        return found[0]
    ids = [record.command_id for record in waiting]
    problem = "no command" if not found else f"{len(found)} commands"
    listed = ", ".join(ids) or "nothing waits"
    raise UserError(f"{problem} that waits begins with {name!r:.80}; there are: {listed}", field="id", allowed=ids)


def _send(
    control: Any, run: str, record: Any, verdict: str, reason: str, command: Any = None, always: bool = False
) -> None:
    from agenttune.control import Decision
    from agenttune.proposals import Author

    decision = Decision.model_validate(
        {
            "verdict": verdict,
            "digest": record.request.digest,
            "author": Author(principal="operator", name=getpass.getuser()),
            "reason": reason,
            "command": command,
            "always": always,
        }
    )
    decided = control.decide(run, record.command_id, decision)
    waits = f", waits for {decided.request.asked}" if decided.state.value == "proposed" else ""
    typer.echo(f"{decided.state.value}{waits}{_why(decided)}")


def _why(record: Any) -> str:
    from agenttune.terminal import clean

    return f": {clean(record.verdict.reason, 500)}" if record.verdict and record.verdict.reason else ""


def _line(record: Any) -> str:
    from agenttune.terminal.requests import headline

    return headline(record, time.time())


def _details(record: Any, info: Any) -> list[str]:
    from agenttune.gate import usd_per_hour
    from agenttune.terminal.requests import parts_of

    parts = parts_of(record, record.request, time.time(), usd_per_hour=usd_per_hour(info))
    return [_line(record), *(f"  {part.label}: {part.text}" for part in parts)]
