"""An agent beside a run: put one there, send it away, or have it follow another policy."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agenttune.cli.app import RunsDir, app, stop_on_signals
from agenttune.errors import UnknownRun, UserError

if TYPE_CHECKING:
    from agenttune.config import AttachSettings, Config
    from agenttune.control.http import HttpControl
    from agenttune.protocol.events import Event
    from agenttune.protocol.run_info import RunInfo

Where = Annotated[
    str,
    typer.Argument(metavar="RUN|URL", help="A run of the folder, such as `latest`; or the URL of a control server."),
]
RunOption = Annotated[str, typer.Option("--run", help="Id of the run. Default: the newest that is live.")]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="Config file for `goal`, `wake`, `llm`, `budgets` and `server`.")
]
DETACHED = 0
"""Exit code of an agent that was sent away, or whose run has ended: it need not be started again."""
ANSWER_S = 15.0
"""How long an agent is given to obey; it looks twice a second unless `wake.poll_s` says otherwise (guess)."""
POLICY_EVENTS = ("policy_attached", "policy_detached", "policy_requested")


@app.command()
def attach(
    where: Where,
    run: RunOption = "",
    policy: Annotated[str, typer.Option("--policy", help="Name or path of a policy.")] = "default",
    config: ConfigOption = None,
    runs_dir: RunsDir = None,
    model: Annotated[str | None, typer.Option("--model", help="Language model, instead of `llm.model`.")] = None,
    base_url: Annotated[str | None, typer.Option("--base-url", help="Its endpoint, instead of `llm.base_url`.")] = None,
    resume: Annotated[bool, typer.Option("--resume", hidden=True, help="Take up what was asked for last.")] = False,
) -> None:
    """Put an agent beside a run until the run ends; Ctrl-C takes it away again."""
    from agenttune.agent import AgentLoop
    from agenttune.control.reader import ControlReader
    from agenttune.policy.load import context_of, open_policy
    from agenttune.policy.wrappers.availability import check_can_act

    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    settings = _settings(config)
    given = {name: value for name, value in (("model", model), ("base_url", base_url)) if value is not None}
    url, run = _place(where, run, runs_dir)
    with _as_owner(url, settings) as owner:
        run_id = _live_run(owner, run)
        if not _is_url(where):
            _refuse_ended(owner.info(run_id))
    with _as_agent(url, run_id, settings) as control:
        settings = settings.model_copy(update={"llm": settings.llm.model_copy(update=given)})
        reader = ControlReader(control, run_id)
        context = replace(context_of(settings, config, reader), asker=reader)
        if resume:
            last = _last_policy(control, run_id, policy, context.project)
            if last is None:
                raise typer.Exit(DETACHED)
            policy = last
        loaded = open_policy(policy, context)
        if not resume:
            check_can_act(loaded.policy, policy)
        stop = threading.Event()
        got = stop_on_signals(stop)
        agent = AgentLoop(
            control,
            run_id,
            loaded.policy,
            settings.wake,
            details=loaded.details,
            load=lambda name: open_policy(name, context),
            detectors=context.detectors,
        )
        typer.echo(f"{policy} beside run {run_id} at {url}; Ctrl-C takes it away, training goes on")
        with _told(url, settings, run_id):
            agent.run(stop)
    if got:
        raise typer.Exit(128 + got[0])


@app.command()
def detach(where: Where, run: RunOption = "", config: ConfigOption = None, runs_dir: RunsDir = None) -> None:
    """Send the agent of a run away; training goes on."""
    _request(where, run, config, None, runs_dir)


@app.command()
def swap(
    where: Where,
    policy: Annotated[
        str, typer.Option("--policy", help="Name or path; a relative path counts from the agent's own folder.")
    ],
    run: RunOption = "",
    config: ConfigOption = None,
    runs_dir: RunsDir = None,
) -> None:
    """Have the agent of a run follow another policy; a policy that cannot be loaded leaves the old one in place."""
    _request(where, run, config, policy, runs_dir)


@contextlib.contextmanager
def _told(url: str, settings: AttachSettings | Config, run_id: str) -> Iterator[None]:
    """What the agent does is told from here on, over a connection of its own."""
    from agenttune.cli.agent_lines import Teller

    with _as_owner(url, settings) as control:
        before = _events(control, run_id)
        teller = Teller(control, run_id, before[-1].seq if before else 0)
        teller.start()
        try:
            yield
        finally:
            teller.close()


def _settings(config: Path | None) -> AttachSettings | Config:
    from agenttune.config import AttachSettings, load_config

    return AttachSettings() if config is None else load_config(config)


@contextlib.contextmanager
def _as_agent(url: str, run_id: str, settings: AttachSettings | Config) -> Iterator[HttpControl]:
    """As the run's own agent: what it records is taken from nobody else."""
    from agenttune.control.http import HttpControl
    from agenttune.control.owner_token import agent_token

    with agent_token(url, run_id, settings.server.token_env) as token, HttpControl(url, token) as control:
        yield control


def _as_owner(url: str, settings: AttachSettings | Config) -> HttpControl:
    from agenttune.control.http import HttpControl
    from agenttune.control.owner_token import OwnerToken

    return HttpControl(url, OwnerToken(url, token_env=settings.server.token_env))


def _live_run(control: HttpControl, run: str) -> str:
    """The run that is meant: the one named, else the newest that is live."""
    if run:
        return control.info(run).run_id
    runs = control.runs()
    live = [info.run_id for info in runs if info.is_live]
    if live:
        return live[0]
    ended = ", ".join(info.run_id for info in runs[:5])
    problem = f"no run is live at {control.url}" + (f"; ended: {ended}" if ended else "; there are no runs at all")
    raise UnknownRun(f"{problem}. Start one, or name it with --run", field="run")


def _events(control: HttpControl, run_id: str) -> list[Event]:
    """What happened to the policies of a run."""
    found: list[Event] = []
    while page := control.events(run_id, found[-1].seq if found else 0, kinds=POLICY_EVENTS):
        found += page
    return found


def _last_policy(control: HttpControl, run_id: str, given: str, project: Path | None) -> str | None:
    """What an agent that died would follow now: the policy it had taken up; None if it was sent away.

    Only what its command line named or an operator asked for counts: what an agent writes into the log must not choose
    the next agent's policy.
    """
    from agenttune.policy.load import identity_of
    from agenttune.protocol.events import PolicyAttached, PolicyRequested

    policy: str | None = given
    wanted = {identity_of(given, project)}
    for event in _events(control, run_id):
        if isinstance(event.body, PolicyAttached):
            path = event.body.details.get("path", given)
            policy = path if path in wanted else policy
        elif isinstance(event.body, PolicyRequested):
            policy = None if event.body.policy is None else policy
            wanted.add(identity_of(event.body.policy or given, project))
    return policy


def _is_url(where: str) -> bool:
    return "://" in where


def _place(where: str, run: str, runs_dir: Path | None) -> tuple[str, str]:
    """URL and run that are meant by a URL, or by a run of the folder: that run's server is the folder's."""
    from agenttune.cli.app import runs_dir_of
    from agenttune.cli.connect import choose_run, open_control
    from agenttune.control.discovery import find_server

    if _is_url(where):
        return where, run
    if run:
        raise UserError(f"{where!r:.80} names a run, and --run another; give one of them", field="run")
    folder = runs_dir_of(runs_dir)
    with open_control("", folder) as control:
        run_id = choose_run(control, where)
    server = find_server(folder)
    if server is None:
        raise UserError(
            f"no control server serves {folder}; start one: agenttune serve --runs-dir {folder}", field="url"
        )
    return server.url, run_id


def _request(where: str, run: str, config: Path | None, policy: str | None, runs_dir: Path | None) -> None:
    from agenttune.control.owner_token import user_name
    from agenttune.protocol.events import PolicyRequested

    url, run = _place(where, run, runs_dir)
    with _as_owner(url, _settings(config)) as control:
        run_id = _live_run(control, run)
        info = control.info(run_id)
        _refuse_ended(info)
        _refuse_if_unattended(control, run_id)
        asked = control.record(run_id, PolicyRequested(policy=policy, author=user_name()), info.step)
        answer = _answer(control, run_id, asked, policy)
    if answer is None:
        what = "left" if policy is None else "taken it up"
        raise UserError(f"asked, but within {ANSWER_S:g} s the agent of run {run_id} has not {what}; it may be gone")
    typer.echo(answer)


def _refuse_ended(info: RunInfo) -> None:
    if not info.is_live:
        raise UserError(f"run {info.run_id} is {info.status}; no policy watches it any more", field="run")


def _refuse_if_unattended(control: HttpControl, run_id: str) -> None:
    from agenttune.protocol.events import PolicyRequested

    events = [event.body for event in _events(control, run_id) if not isinstance(event.body, PolicyRequested)]
    if not events or events[-1].kind == "policy_detached":
        raise UserError(
            f"no policy is attached to run {run_id}; attach one with: agenttune attach {control.url} --run {run_id}",
            field="run",
        )


def _answer(control: HttpControl, run_id: str, asked: int, policy: str | None) -> str | None:
    """What the agent did about a request, in words; None if it did nothing in time."""
    until_s = time.monotonic() + ANSWER_S
    kinds = ("policy_attached", "policy_detached", "decided")
    while (left_s := until_s - time.monotonic()) > 0:
        for event in control.events(run_id, asked, wait_s=left_s, kinds=kinds):
            asked = event.seq
            if words := _obeyed(event, policy):
                return f"{words} run {run_id}"
    return None


def _obeyed(event: Event, policy: str | None) -> str:
    """Whether an event says that an agent did as it was asked, in words."""
    from agenttune.protocol.events import Decided, PolicyAttached, PolicyDetached

    body = event.body
    if isinstance(body, PolicyDetached) and policy is None:
        return f"{body.policy} left"
    if isinstance(body, PolicyAttached) and policy is not None:
        return f"{body.policy} attached to"
    if isinstance(body, Decided) and body.woken_by.startswith(f"policy {policy} was asked for"):
        raise UserError(body.reason, field="policy")
    return ""
