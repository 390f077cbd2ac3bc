"""Bearer tokens: make, list, revoke."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from agenttune.cli.app import Json, RunsDir, app, runs_dir_of
from agenttune.errors import StoreFault, UserError

if TYPE_CHECKING:
    from agenttune.control.tokens import IsOver, Token

group = typer.Typer(help="Bearer tokens for the control server.", no_args_is_help=True, add_completion=False)
app.add_typer(group, name="token")

Role = Literal["viewer", "agent", "operator", "trainer"]
UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
NEVER = "never"


@group.command()
def create(
    role: Annotated[Role, typer.Option(help="What its holder may do; see docs/security.md.")],
    name: Annotated[str, typer.Option(help="Whose it is, for you and for the log.")],
    run: Annotated[
        list[str] | None, typer.Option(help="Only these runs, by id or pattern such as 'mnist-*'; again for more.")
    ] = None,
    expires: Annotated[str, typer.Option(metavar="TIME", help="Such as 45m, 12h or 30d; or never.")] = "30d",
    runs_dir: RunsDir = None,
) -> None:
    """Make a token and print it, this once: only a hash of it is kept."""
    from agenttune.control.tokens import create_token

    folder = runs_dir_of(runs_dir)
    text, token = create_token(folder, role, name, run or (), seconds(expires))
    typer.echo(text)
    until = "for ever" if token.expires_at_s is None else f"until {_when(token.expires_at_s)}"
    typer.echo(f"{token.role}, {_runs(token.runs)}, {until}; it is shown only now. Keep it like a password;", err=True)
    typer.echo(f"end it with: agenttune token revoke {token.id} --runs-dir {folder}", err=True)


@group.command("list")
def list_(runs_dir: RunsDir = None, json_: Json = False) -> None:
    """List the tokens of a folder of runs; their texts are not kept anywhere."""
    from agenttune.control.tokens import read_tokens
    from agenttune.store.run_ends import RunEnds

    folder = runs_dir_of(runs_dir)
    tokens, is_over = read_tokens(folder), RunEnds(folder)
    if json_:
        shown = [
            {**token.model_dump(mode="json", exclude={"sha256"}), "ends": _ends(token, is_over)} for token in tokens
        ]
        typer.echo(json.dumps(shown, indent=2))
        return
    if not tokens:
        typer.echo("no tokens; make one with: agenttune token create --role ROLE --name NAME")
    for token in tokens:
        typer.echo(
            f"{token.id}  {token.role:8}  {token.name}  {_runs(token.runs)}, {_ends(token, is_over)}{_link(token)}"
        )


@group.command()
def revoke(
    token_id: Annotated[str, typer.Argument(metavar="ID", help="As `list` shows it.")], runs_dir: RunsDir = None
) -> None:
    """End a token: it opens nothing from now on."""
    from agenttune.control.tokens import revoke_token

    folder = runs_dir_of(runs_dir)
    token = revoke_token(folder, token_id)
    typer.echo(f"revoked {token.id}, {token.name}")


def seconds(time_: str) -> float | None:
    """A time such as `30d` in seconds; None for `never`."""
    if time_ == NEVER:
        return None
    found = re.fullmatch(r"(\d{1,6})([smhd])", time_)
    if found is None or int(found[1]) == 0:
        problem = f"{time_!r:.40} is no time to expire after; give a number and s, m, h or d, such as 30d, or never"
        raise UserError(problem, field="expires", allowed=["45m", "12h", "30d", NEVER])
    return int(found[1]) * UNITS_S[found[2]]


def _ends(token: Token, is_over: IsOver) -> str:
    """Until when a token counts, in words."""
    if not token.is_live(time.time()):
        return "has expired"
    until = "never expires" if token.expires_at_s is None else f"expires {_when(token.expires_at_s)}"
    if not token.ends_with_run:
        return until
    try:
        if is_over(token.ends_with_run):
            return f"has ended with its run {token.ends_with_run}"
    except StoreFault as fault:
        return f"opens nothing while its run's log cannot be read ({fault})"
    return f"ends with its run {token.ends_with_run}, {until} at the latest"


def _when(at_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at_s))


def _link(token: Token) -> str:
    return "; a link, not followed yet" if token.once else ""


def _runs(patterns: tuple[str, ...]) -> str:
    return ", ".join(patterns) if patterns else "all runs"
