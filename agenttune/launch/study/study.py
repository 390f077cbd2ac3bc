"""A study from start to end: its journal, its processes, what the user sees; ended and continued at any point."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.text import Text

from agenttune import __version__
from agenttune.config import Config
from agenttune.control.page_link import open_in_browser, page_link
from agenttune.errors import AgenttuneError, StoreFault, UnknownRun, UserError
from agenttune.launch.child_processes import ServerProcess
from agenttune.launch.credentials import not_for_server
from agenttune.launch.run_plan import Plan
from agenttune.launch.shutdown import SIGNALS, Interrupts
from agenttune.launch.study.conclusion import conclusion
from agenttune.launch.study.planner import Planner
from agenttune.launch.study.records import RunConcluded, StudyEnded, StudyResumed, StudyStarted
from agenttune.launch.study.report import print_study
from agenttune.launch.study.rounds import CarryOut, Halt, Launched, Rounds, study_of
from agenttune.launch.study.state import RoundRun, Study, fold
from agenttune.launch.study.study_log import StudyJournal, find_study, is_worked_on, read_entries, started
from agenttune.launch.supervisor import NO_BROWSER, claim_folder, create_run, supervise
from agenttune.llm.prompts import Prompts
from agenttune.protocol.model_calls import ModelCalled
from agenttune.store.process_liveness import is_alive
from agenttune.store.run_log import RunLog, list_runs, run_folder

FIXED = ("run", "goal", "policy", "gate", "rounds")
"""Parts of the config that must stay while a study is continued; caps and the endpoint may change."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM between two runs."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.exit_code = 128 + number


def run_study(
    plan: Plan, console: Console, errors: Console, resume: str | None = None, opens_page: bool = False
) -> int:
    """Carry out a study, or what is left of it.

    Args:
        plan: From `make_plan`, with `rounds.count` above 0.
        console: For the live views and the table.
        errors: For what went wrong.
        resume: The study to continue: an id, the beginning of one, or empty for the newest; None: a new one.
        opens_page: Whether to open the list of runs in the user's browser.

    Returns:
        The exit code: 0; 1 if rounds are missing or a run failed; 130 after Ctrl-C, 143 after SIGTERM.

    Raises:
        AgenttuneError: It could not be started or continued, or a run could not.
    """
    folder = find_study(plan.runs_dir, resume) if resume is not None else _new_folder(plan)
    journal = StudyJournal(folder)
    try:
        with _interruptible():
            if resume is not None:
                take_up(plan, journal)
            else:
                journal.append(study_started(plan, folder.name))
            return _carry_on(plan, journal, console, errors, opens_page)
    finally:
        journal.close()


def read_study(folder: Path) -> Study:
    """A study as its journal stands now."""
    entries = read_entries(folder)
    return fold(entries, started(entries, folder), str(folder.resolve()), is_worked_on(folder))


def _new_folder(plan: Plan) -> Path:
    return claim_folder(plan.runs_dir, f"{plan.config.run.name}-study")[1]


def study_started(plan: Plan, study: str) -> StudyStarted:
    goal = plan.config.goal
    return StudyStarted(
        study=study,
        count=plan.config.rounds.count,
        config_path=str(plan.path),
        config_sha256=_sha256(plan),
        agenttune=__version__,
        settings=fixed_settings(plan.config),
        goal_metric=goal.metric,
        goal_direction=goal.direction,
    )


def _sha256(plan: Plan) -> str:
    return hashlib.sha256(plan.path.read_bytes()).hexdigest()


def fixed_settings(config: Config) -> dict[str, Any]:
    """The parts of the config that make runs of a study comparable."""
    settings = {name: config.model_dump(mode="json")[name] for name in FIXED}
    settings["rounds"].pop("count")
    return settings


def take_up(plan: Plan, journal: StudyJournal) -> None:
    """Check that a study can go on, and record what became of a run that was under way.

    Raises:
        UserError: The config is another now, or a run of the study still trains.
    """
    before, now = started(journal.entries, journal.folder).settings, fixed_settings(plan.config)
    changed = next(_differences(before, now), None)
    if changed is not None:
        problem = f"{plan.path}: {changed} is not what the study {journal.folder.name} began with; set it back, or "
        raise UserError(problem + "start a new study (llm, budgets and rounds.count may change)", field=changed)
    for run in study_of(journal).runs:
        if run.outcome is None:
            journal.append(_found_later(plan.runs_dir, run), run.round)
    journal.append(StudyResumed(count=plan.config.rounds.count, config_sha256=_sha256(plan)))


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for name in dict.fromkeys((*before, *now)):
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new, f"{path}{name}.")
        elif old != new:
            yield f"{path}{name}"


def _found_later(runs_dir: Path, run: RoundRun) -> RunConcluded:
    """What became of a run whose launcher died."""
    try:
        log = RunLog.open(run_folder(runs_dir, run.run_id))
    except UnknownRun:
        return RunConcluded(run_id=run.run_id, outcome="lost", reason="its log is gone")
    info = log.info()
    log.close()
    if info.is_live and info.pid is not None and is_alive(info.pid, info.pid_started_s):
        problem = f"the run {run.run_id} of this study still trains in process {info.pid}; wait for its end, or end it "
        raise UserError(f"{problem}with: kill {info.pid}", field="resume")
    return conclusion(runs_dir, run.run_id, watched=False)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C and SIGTERM raise `Interrupted`, except while a run of its own takes them."""

    def take(number: int, frame: FrameType | None) -> None:
        raise Interrupted(number)

    before = {number: signal.signal(number, take) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _carry_on(plan: Plan, journal: StudyJournal, console: Console, errors: Console, opens_page: bool) -> int:
    server: ServerProcess | None = None
    try:
        # One server for the whole study: runs find it, and leave it to us.
        server = ServerProcess(plan.runs_dir, plan.config.server, hidden=not_for_server(plan.config))
        if opens_page and not open_in_browser(*page_link(server.url, plan.runs_dir), plan.runs_dir):
            _sayer(console)(NO_BROWSER)
        code = Rounds(plan, journal, planner_for(plan, journal), _carry_out(console, errors), _sayer(console)).go()
        journal.append(StudyEnded(status="finished"))
    except Halt as halt:
        code = halt.exit_code
        journal.append(StudyEnded(status="interrupted" if code > 1 else "stopped", reason=halt.reason))
    except Interrupted as interrupted:
        code = interrupted.exit_code
        journal.append(StudyEnded(status="interrupted", reason="interrupted between two runs"))
    except AgenttuneError as error:
        with contextlib.suppress(StoreFault):  # a full disk is then the error's own cause, which is told
            journal.append(StudyEnded(status="stopped", reason=str(error)))
        raise
    finally:
        if server is not None and not any(info.is_live for info in list_runs(plan.runs_dir)):
            server.stop()
    _conclude(plan, journal, console, errors)
    return code


def _carry_out(console: Console, errors: Console) -> CarryOut:
    def carry_out(plan: Plan, launched: Launched) -> int:
        with Interrupts() as interrupts:
            run = create_run(plan)
            launched(run.run_id)
            return supervise(run, console, errors, interrupts)

    return carry_out


def _sayer(console: Console) -> Callable[[str], None]:
    return lambda text: console.print(Text(f"agenttune: {text}"), soft_wrap=True, highlight=False)


def _conclude(plan: Plan, journal: StudyJournal, console: Console, errors: Console) -> None:
    """The table; and if rounds are missing, why and how to go on."""
    study = fold(journal.entries, started(journal.entries, journal.folder), str(journal.folder), worked_on=False)
    print_study(console, study)
    if study.status != "finished":
        errors.print(Text(f"error: the study is not complete: {study.reason}", style="bold red"), soft_wrap=True)
        again = f"agenttune run {shlex.quote(_relative(plan.path))} --resume {shlex.quote(study.study)}"
        errors.print(Text(f"go on with: {again}{_runs_dir_option(plan)}"), soft_wrap=True)


def _relative(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _runs_dir_option(plan: Plan) -> str:
    own = (plan.path.parent / plan.config.store.runs_dir).resolve()
    return "" if own == plan.runs_dir else f" --runs-dir {shlex.quote(str(plan.runs_dir))}"


def planner_for(plan: Plan, journal: StudyJournal, environ: Mapping[str, str] = os.environ) -> Planner | str:
    """The planner of a study, or why there is none. What its journal has of calls counts against the caps.

    Raises:
        ConfigError: A prompt is wrong.
    """
    # Here, so that a run without rounds does not load the client of the language model.
    from agenttune.llm import OpenAIChat, is_configured
    from agenttune.protocol.model_calls import Ledger

    config = plan.config
    if why := is_configured(config.llm, environ):  # which makes a client once, to see that it can be made
        return why
    spent = Ledger.of(entry.body for entry in journal.entries if isinstance(entry.body, ModelCalled))
    model = OpenAIChat(config.llm, config.budgets, spent, environ)
    planner = Planner(
        model, Prompts(plan.folder), config.goal, config.rounds.parameters, config.run.args, journal.append
    )
    planner.check()
    return planner
