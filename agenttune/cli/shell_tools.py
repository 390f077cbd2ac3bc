"""Steering and reading from the shell, and the MCP server: the same tools, commands and gate as everywhere."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from agenttune.cli.app import Json, RunsDir, app, runs_dir_of
from agenttune.cli.connect import Url, choose_run, open_control
from agenttune.errors import UserError
from agenttune.protocol.strict_json import KeyTwice, once

if TYPE_CHECKING:
    from agenttune.protocol.commands import CommandBase
    from agenttune.protocol.proposals import Ack, CommandRecord, Verdict

MOST_CHARACTERS = 10_000
"""Of one line (as much as a whole answer of a tool)."""
FAILED, REFUSED = 1, 2
"""Exit codes of `send`: the trainer could not; the gate said no. 0: applied, or on its way."""
REST = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
"""The options of a command are known only once its name is, so they are read in a second go."""
Run = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, the beginning of one, or `latest`.")]
Help = Annotated[bool, typer.Option("--help", help="Show this, or after a command's name its options.")]


@app.command(context_settings=REST)
def send(
    context: typer.Context,
    run: Run = "",
    command: Annotated[
        str, typer.Argument(metavar="COMMAND", help="A command's name and options, its JSON, or - for standard input.")
    ] = "",
    reason: Annotated[str, typer.Option("--reason", help="Why; goes to the log.")] = "",
    valid_until_step: Annotated[
        int | None, typer.Option("--valid-until-step", min=0, help="Never apply it after this step.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only ask the gate.")] = False,
    wait_s: Annotated[float, typer.Option("--wait-s", min=0, max=3600, help="Wait so long for the ack.")] = 10.0,
    json_: Json = False,
    url: Url = "",
    runs_dir: RunsDir = None,
    help_: Help = False,
) -> None:
    """Send a command to a run, such as: agenttune send latest update_optimizer --lr 1e-4 --reason "too high"."""
    from agenttune.control.owner_token import user_name
    from agenttune.control.reader import settled
    from agenttune.protocol.proposals import Author, Proposal

    if help_ or not run or not command:
        from agenttune.protocol.commands import COMMAND_KINDS

        _help(context, _command_help(command), help_, f"Commands: {', '.join(COMMAND_KINDS)}")
    asked = _command(command, context.args)
    author = Author(principal="operator", name=user_name())
    proposal = Proposal(command=asked, author=author, rationale=reason, valid_until_step=valid_until_step)
    with open_control(url, runs_dir) as control:
        run_id = choose_run(control, run)
        if dry_run:
            _end(_tell_verdict(control.dry_run(run_id, proposal), json_))
        record = settled(control, run_id, control.submit(run_id, proposal), wait_s)
    _end(_tell_record(record, json_))


@app.command(context_settings=REST)
def show(
    context: typer.Context,
    run: Run = "",
    what: Annotated[str, typer.Argument(metavar="WHAT", help="What to read; --help lists what there is.")] = "",
    json_: Json = False,
    url: Url = "",
    runs_dir: RunsDir = None,
    help_: Help = False,
) -> None:
    """Show what a tool would read of a run, such as: agenttune show latest metrics --metric step_loss."""
    from agenttune.control.reader import ControlReader
    from agenttune.llm.tools.read_tools import reads_by_word
    from agenttune.llm.tools.toolbox import checked

    reads = reads_by_word()
    if help_ or not run or not what:
        _help(
            context,
            _parser(what, reads[what].shape().parameters) if what in reads else None,
            help_,
            f"WHAT: {', '.join(reads)}",
        )
    if what not in reads:
        raise UserError(f"nothing called {what!r:.80} to show; there are: {', '.join(reads)}", allowed=list(reads))
    read = reads[what]
    given = checked(what, read.arguments, _parsed(what, read.shape().parameters, context.args))
    with open_control(url, runs_dir) as control:
        answer = read.answer(ControlReader(control, choose_run(control, run), is_operators=True), given)
    if json_:
        typer.echo(answer)
    else:
        _print_answer(json.loads(answer))


@app.command()
def mcp(
    url: Url = "",
    runs_dir: RunsDir = None,
    run: Annotated[str, typer.Option("--run", help="Meant where a call names none. Default: the newest live.")] = "",
    http: Annotated[bool, typer.Option("--http", help="Streamable HTTP instead of standard input and output.")] = False,
    host: Annotated[str, typer.Option(help="With --http: anything but loopback needs a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="With --http: 0 takes a free one.")] = 7008,
    read_only: Annotated[bool, typer.Option("--read-only", help="No tool changes anything.")] = False,
) -> None:
    """Serve the runs to an MCP client (Claude Code, Codex, ...); the token for --http is taken from AGENTTUNE_TOKEN."""
    import logging

    from agenttune.control.discovery import TOKEN_ENV
    from agenttune.server.mcp.mcp_server import require_sdk, serve_http, serve_stdio
    from agenttune.server.mcp.tools import RunTools

    require_sdk()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING, stream=sys.stderr)
    with open_control(url, runs_dir, is_owner=False) as control:
        tools = RunTools(control, run, read_only)
        if http:
            token = os.environ.get(TOKEN_ENV)
            folder = None if url else runs_dir_of(runs_dir)

            def say(at: str) -> None:
                typer.echo(f"MCP server at {at}, Ctrl-C ends it", err=True)

            serve_http(tools, host, port, token, say, folder)
        else:
            serve_stdio(tools)


def _command(name: str, rest: list[str]) -> CommandBase:
    """The command that was typed: by name and options, or as JSON."""
    from agenttune.llm.tools.tool_schemas import plain_schema
    from agenttune.llm.tools.toolbox import decoded
    from agenttune.protocol.command_schemas import schemas_by_kind
    from agenttune.protocol.commands import parse_command

    if name == "-" or name.lstrip().startswith("{"):
        if rest:
            raise UserError(f"a command as JSON takes no options of its own: {' '.join(rest)[:200]}")
        return parse_command(decoded("send", sys.stdin.read() if name == "-" else name))
    known = schemas_by_kind()
    if name not in known:
        return parse_command({"kind": name})
    given = _parsed(name, plain_schema(known[name].json_schema), rest)
    return parse_command({"kind": name, **given})


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {message}; its options: agenttune send RUN {self.prog} --help")


def _parser(name: str, schema: Mapping[str, Any]) -> _Parser:
    """Options of a tool's or a command's fields; what is no plain text or number is given as JSON."""
    parser = _Parser(prog=name, add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    for field, part in schema.get("properties", {}).items():
        if field == "kind":
            continue
        option, words = f"--{field.replace('_', '-')}", part.get("description", "").replace("%", "%%")
        names = list(dict.fromkeys([option, f"--{field}"]))
        if part.get("type") == "boolean":
            parser.add_argument(*names, dest=field, action=argparse.BooleanOptionalAction, help=words)
        else:
            parser.add_argument(*names, dest=field, metavar=_metavar(part), help=words)
    return parser


def _metavar(part: Mapping[str, Any]) -> str:
    kind = part.get("type")
    if "enum" in part:
        return "|".join(map(str, part["enum"]))
    return {"string": "TEXT", "number": "NUMBER", "integer": "INTEGER"}.get(
        kind if isinstance(kind, str) else "", "JSON"
    )


def _parsed(name: str, schema: Mapping[str, Any], rest: list[str]) -> dict[str, Any]:
    typed = vars(_parser(name, schema).parse_args(rest))
    return {field: _value(field, schema["properties"][field], text) for field, text in typed.items()}


def _value(field: str, part: Mapping[str, Any], typed: Any) -> Any:
    """What was typed for a field; a mixed field takes JSON, and what is no JSON is text where text is allowed."""
    kinds = part.get("type", [])
    if not isinstance(typed, str) or kinds == "string":
        return typed
    try:
        return json.loads(typed, parse_constant=float, object_pairs_hook=once)
    except KeyTwice as error:
        raise UserError(f"{field}: {error}", field=field) from None
    except ValueError:
        if "string" in kinds:
            return typed
        if kinds in ("number", "integer"):
            return _number(typed)
        raise UserError(f"{field}: {typed!r:.80} is no JSON; such as '[0.9, 0.99]' or '{{\"a\": 1}}'") from None


def _number(typed: str) -> float | str:
    """Shells write numbers that JSON does not know, such as .5 and 1.; what is none is left to be refused by name."""
    try:
        return float(typed)
    except ValueError:
        return typed


def _command_help(command: str) -> _Parser | None:
    from agenttune.llm.tools.tool_schemas import plain_schema
    from agenttune.protocol.command_schemas import schemas_by_kind

    known = schemas_by_kind()
    return _parser(command, plain_schema(known[command].json_schema)) if command in known else None


def _help(context: typer.Context, of: _Parser | None, is_asked: bool, names: str) -> NoReturn:
    """The options of a command or a read; without one its own, and which there are."""
    shown = f"{context.get_help()}\n{names}" if of is None else of.format_help()
    typer.echo(shown, err=not is_asked)
    raise typer.Exit(0 if is_asked else REFUSED)


def _end(code: int) -> NoReturn:
    raise typer.Exit(code)


def _tell_verdict(verdict: Verdict, is_json: bool) -> int:
    if is_json:
        typer.echo(verdict.model_dump_json(indent=2))
    else:
        nearest = f"; nearest allowed: {json.dumps(verdict.nearest_allowed)}" if verdict.nearest_allowed else ""
        _say(f"{verdict.decision} by {verdict.decided_by} {verdict.reason}{nearest}")
    return 0 if verdict.decision in ("approved", "edited") else REFUSED


def _tell_record(record: CommandRecord, is_json: bool) -> int:
    from agenttune.protocol.summary import outcome_line, outcome_words

    verdict = record.verdict
    if is_json:
        typer.echo(record.model_dump_json(indent=2))
    else:
        nearest = verdict.nearest_allowed if verdict is not None else None
        hint = f"; nearest allowed: {json.dumps(nearest)}" if nearest else ""
        at = f" at step {record.ack.step}" if record.ack is not None else ""
        line = outcome_line(record) if record.ack is None else outcome_words(record.ack)
        said = "" if line == record.state.value else f": {line}"
        _say(f"{record.state.value}{at}{said}{hint}")
        if record.ack is not None:
            _tell_answer(record.ack, line)
    return _exit_code(record)


def _tell_answer(ack: Ack, said: str) -> None:
    """What else the trainer answered: its message, and tables such as a probe's trials."""
    if ack.message and ack.message not in said:
        _say(ack.message)
    told = {change.name for change in ack.changes}  # the line before says in words what they are now
    tables = {name: value for name, value in ack.result.items() if isinstance(value, (list, dict)) and value}
    _print_answer({name: value for name, value in tables.items() if name not in told})


def _exit_code(record: CommandRecord) -> int:
    if record.ack is not None:
        return 0 if record.ack.outcome == "applied" else FAILED
    return REFUSED if record.is_final else 0


def _print_answer(answer: dict[str, Any]) -> None:
    """An answer as lines: single values first, then rows."""
    for key, value in answer.items():
        if isinstance(value, list) and value and key != "columns":
            _say(f"{key}:")
            for row in value:
                _say(f"  {_row(row)}")
        else:
            _say(f"{key}: {_words(value)}")


def _row(row: Any) -> str:
    if isinstance(row, dict):
        return ", ".join(f"{key} {_words(value)}" for key, value in row.items() if value not in (None, "", [], {}))
    return " ".join(map(_words, row)) if isinstance(row, list) else _words(row)


def _words(value: Any) -> str:
    """As it would be typed, but for lists and named values, which are told in words."""
    from agenttune.protocol.text import number

    return number(value) if isinstance(value, (list, dict)) else value if isinstance(value, str) else json.dumps(value)


def _say(line: str) -> None:
    """One line of foreign text: nothing in it can move the cursor or be read as markup."""
    from agenttune.protocol.text import clean

    more = f" [{len(line) - MOST_CHARACTERS} more characters; --json has all]" if len(line) > MOST_CHARACTERS else ""
    Console().print(Text(clean(line, MOST_CHARACTERS) + more), soft_wrap=True, highlight=False)
