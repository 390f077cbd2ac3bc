"""Deciding on proposals that wait, from another shell."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from agenttune.cli.app import Json, RunsDir, app
from agenttune.cli.connect import Url, choose_run, open_control
from agenttune.errors import UserError
from agenttune.protocol.strict_json import once
from agenttune.protocol.text import clean

if TYPE_CHECKING:
    from agenttune.control import LocalControl
    from agenttune.control.http import HttpControl
    from agenttune.protocol.proposals import Author, CommandRecord
    from agenttune.protocol.run_info import RunInfo

group = typer.Typer(help="Decide on commands that wait for a person.", no_args_is_help=True, add_completion=False)
app.add_typer(group, name="approve")

RunName = Annotated[str, typer.Option("--run", help="A run's id, the beginning of one, or `latest`.")]
CommandName = Annotated[
    str, typer.Argument(metavar="[ID]", help="The command's id, or its beginning. Default: the one that waits.")
]
Reason = Annotated[str, typer.Option("--reason", help="Goes back to who asked.")]
WATCH_POLL_S = 1.0


@group.command("list")
def list_(run: RunName = "latest", url: Url = "", runs_dir: RunsDir = None, json_: Json = False) -> None:
    """List what waits for a decision."""
    with _requests(run, url, runs_dir) as requests:
        waiting, allowed = requests.waiting(), requests.info().standing
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
def show(
    command_id: CommandName = "", run: RunName = "latest", url: Url = "", runs_dir: RunsDir = None, json_: Json = False
) -> None:
    """Show one request: what it would change, on which evidence, and what happens if nobody answers."""
    with _requests(run, url, runs_dir) as requests:
        record, info = requests.find(command_id), requests.info()
    if json_:
        typer.echo(record.model_dump_json(indent=2))
        return
    for line in _details(record, info):
        typer.echo(line)


@group.command()
def yes(
    command_id: CommandName = "",
    reason: Reason = "",
    always: Annotated[bool, typer.Option("--always", help="Also all further ones of its kind and rule.")] = False,
    run: RunName = "latest",
    url: Url = "",
    runs_dir: RunsDir = None,
) -> None:
    """Approve a command as it was shown."""
    with _requests(run, url, runs_dir) as requests:
        requests.decide(command_id, "approve", reason, always=always)


@group.command()
def never(
    kind: Annotated[str, typer.Argument(help="Kind of command, such as update_optimizer.")],
    run: RunName = "latest",
    url: Url = "",
    runs_dir: RunsDir = None,
) -> None:
    """Take back `yes --always`: commands of a kind wait for a person again."""
    with _requests(run, url, runs_dir) as requests:
        for standing in requests.control.end_standing_approval(requests.run_id, kind, _me()):
            typer.echo(f"{standing.kind} under {standing.rule} waits for a person again")


@group.command()
def no(
    command_id: CommandName = "", reason: Reason = "", run: RunName = "latest", url: Url = "", runs_dir: RunsDir = None
) -> None:
    """Reject a command; the reason goes back to who asked."""
    with _requests(run, url, runs_dir) as requests:
        requests.decide(command_id, "reject", reason)


@group.command()
def escalate(
    command_id: CommandName = "", reason: Reason = "", run: RunName = "latest", url: Url = "", runs_dir: RunsDir = None
) -> None:
    """Leave a command to the next approver of its rule; if there is none, it is rejected."""
    with _requests(run, url, runs_dir) as requests:
        requests.decide(command_id, "escalate", reason)


@group.command()
def edit(
    words: Annotated[
        list[str],
        typer.Argument(metavar="[ID] JSON", help='The command\'s id, as above, and the arguments: {"lr": 0.001}.'),
    ],
    reason: Reason = "",
    run: RunName = "latest",
    url: Url = "",
    runs_dir: RunsDir = None,
) -> None:
    """Approve a command with other arguments; the same schema and guardrails hold for them."""
    *ids, arguments = words
    if len(ids) > 1:
        raise UserError("give one id and one JSON object, in quotes: '{\"lr\": 0.001}'", field="arguments")
    try:
        changed = json.loads(arguments, object_pairs_hook=once)
    except ValueError as error:
        raise UserError(f"the arguments are not JSON: {error}", field="arguments") from None
    if not isinstance(changed, dict):
        raise UserError('the arguments are a JSON object, such as {"lr": 0.001}', field="arguments")
    with _requests(run, url, runs_dir) as requests:
        requests.decide(ids[0] if ids else "", "edit", reason, changed)


@group.command()
def watch(run: RunName = "latest", url: Url = "", runs_dir: RunsDir = None) -> None:
    """Print requests as they come, until Ctrl-C."""
    seen: set[str] = set()
    with _requests(run, url, runs_dir) as requests:
        while True:
            for record in requests.waiting():
                if record.command_id not in seen:
                    seen.add(record.command_id)
                    for line in [*_details(record, requests.info()), ""]:
                        typer.echo(line)
            time.sleep(WATCH_POLL_S)


@dataclass(frozen=True)
class _Requests:
    """What waits for a decision in one run."""

    control: LocalControl | HttpControl
    run_id: str

    def waiting(self) -> list[CommandRecord]:
        return self.control.pending(self.run_id)

    def info(self) -> RunInfo:
        return self.control.info(self.run_id)

    def find(self, name: str) -> CommandRecord:
        """The one request whose command's id begins so; raises UserError if there is none, or more than one."""
        waiting = self.waiting()
        if not name and len(waiting) != 1:
            lines = "".join(f"\n  {_line(record)}" for record in waiting)
            problem = f"{len(waiting)} commands wait; name one by its id:{lines}" if waiting else "nothing waits"
            raise UserError(problem, field="id", allowed=[record.command_id for record in waiting])
        found = [record for record in waiting if record.command_id.startswith(name)]
        if len(found) == 1:
            return found[0]
        ids = [record.command_id for record in waiting]
        problem = "no command" if not found else f"{len(found)} commands"
        listed = ", ".join(ids) or "nothing waits"
        raise UserError(f"{problem} that waits begins with {name!r:.80}; there are: {listed}", field="id", allowed=ids)

    def decide(
        self,
        name: str,
        verdict: Literal["approve", "edit", "reject", "escalate"],
        reason: str,
        changed: Mapping[str, Any] | None = None,
        always: bool = False,
    ) -> None:
        """Decide, and tell what came of it; `changed` are arguments that an edit replaces."""
        from agenttune.control import ApprovalDecision
        from agenttune.gate import with_arguments

        record = self.find(name)
        if record.request is None:
            raise UserError(f"command {record.command_id} does not wait for anybody", field="id")
        command = None if changed is None else with_arguments(record.proposal.command, changed)
        if not name:
            how = [*(["always"] if always else []), *([f"as {clean(command.words)}"] if command is not None else [])]
            self._check_meant(record, " ".join([verdict, *how]))
        decision = ApprovalDecision(
            verdict=verdict,
            digest=record.request.digest,
            author=_me(),
            reason=reason,
            command=command,
            always=always,
        )
        decided = self.control.decide(self.run_id, record.command_id, decision)
        # Who did not name the command hears which one it was; what an edit made of it is told in any case.
        of = "" if name and command is None else f"{_what(record if command is None else decided)}: "
        typer.echo(f"{of}{_what_came(decided)}")

    def _check_meant(self, record: CommandRecord, deed: str) -> None:
        """Show the one that waits; at a terminal ask whether it is meant, as another may have waited a moment ago.

        Raises:
            UserError: It is not.
        """
        for line in _details(record, self.info()):
            typer.echo(line, err=True)
        if sys.stdin.isatty() and not typer.confirm(f"{deed}?", err=True):
            lines = "".join(f"\n  {_line(waiting)}" for waiting in self.waiting())
            raise UserError(f"nothing was decided; name the one that is meant by its id:{lines}", field="id")


@contextlib.contextmanager
def _requests(run: str, url: str, runs_dir: Path | None) -> Iterator[_Requests]:
    with open_control(url, runs_dir) as control:
        yield _Requests(control, choose_run(control, run))


def _me() -> Author:
    from agenttune.control.owner_token import user_name
    from agenttune.protocol.proposals import Author

    return Author(principal="operator", name=user_name())


def _what_came(decided: CommandRecord) -> str:
    waits = decided.request if decided.state.value == "proposed" else None
    next_ = f", waits for {waits.asked}" if waits is not None else ""
    why = f": {clean(decided.verdict.reason, 500)}" if decided.verdict and decided.verdict.reason else ""
    return f"{decided.state.value}{next_}{why}"


def _what(record: CommandRecord) -> str:
    return clean(record.command.words)


def _now_s(record: CommandRecord) -> float:
    """Unix time by the clock that the request waits by."""
    from agenttune.protocol.deadlines import instant, now_for

    return time.time() if record.request is None else now_for(record.request, instant())


def _line(record: CommandRecord) -> str:
    from agenttune.gate.approval_description import headline

    return headline(record, _now_s(record))


def _details(record: CommandRecord, info: RunInfo) -> list[str]:
    from agenttune.gate.approval_description import describe

    if record.request is None:
        return [_line(record)]
    lines = describe(record, record.request, info, _now_s(record)).lines()
    return [_line(record), *(f"  {label}: {text}" for label, text in lines)]
