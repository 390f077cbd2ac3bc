"""One run from start to end: the processes, what the user sees of them, and the exit code."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.console import Console
from rich.text import Text

from agenttune.control import LocalControl
from agenttune.control.owner_token import LAUNCHER, user_name
from agenttune.errors import AgenttuneError, RunEnded, StoreFault, SystemFault, UserError
from agenttune.launch.child_processes import AgentProcess, ServerProcess, TrainingProcess, spawn
from agenttune.launch.credentials import RunTokens, not_for_agent, not_for_reviewer, not_for_script, not_for_server
from agenttune.launch.disk_room import DiskRoom
from agenttune.launch.exit_reason import Ending, ending_of, own_error, rank_words, tail
from agenttune.launch.launchers import launcher_environ
from agenttune.launch.run_plan import Plan
from agenttune.launch.shutdown import Interrupts, Stopping
from agenttune.protocol.commands import StopTraining
from agenttune.protocol.events import NoteAdded, StatusChanged
from agenttune.protocol.proposals import Author, Proposal, State
from agenttune.protocol.run_info import RunInfo
from agenttune.store.job import Job, job_of
from agenttune.store.process_liveness import is_alive, started_s
from agenttune.store.run_log import RunLog, list_runs
from agenttune.views.report import print_report, read_journal, report_command
from agenttune.views.terminal import ApprovalPrompt, View, view_for

SHARED_SETTINGS = ("gate", "budgets", "checkpoints", "probation", "wake", "notify")
"""Parts of the config that the run's log holds: other processes obey them too."""
NO_BROWSER = "no browser was found to open the page with; follow its link"
TRAINER_LOG, AGENT_LOG, REVIEWER_LOG, CONFIG_COPY = "trainer.log", "agent.log", "reviewer.log", "config.yaml"
RANK_FAILURES = "rank-failures.json"


@dataclass(frozen=True)
class Run:
    """A run that has a log.

    Attributes:
        folder: Holds the log and the output of the processes.
        log: The main thread's connection.
    """

    plan: Plan
    run_id: str
    folder: Path
    log: RunLog


def launch(plan: Plan, console: Console, errors: Console, opens_page: bool = False) -> int:
    """Run a plan to its end.

    Args:
        plan: From `make_plan`.
        console: For the live view and the report.
        errors: For what went wrong.
        opens_page: Whether to open the run's page in the user's browser.

    Returns:
        The exit code: 0, 1 if the training failed, 130 after Ctrl-C, 143 after SIGTERM.

    Raises:
        AgenttuneError: It could not be started; the run's log says so too.
    """
    with Interrupts() as interrupts:
        return supervise(create_run(plan), console, errors, interrupts, opens_page)


def supervise(run: Run, console: Console, errors: Console, interrupts: Interrupts, opens_page: bool = False) -> int:
    """Start the processes of a run that has a log, and follow it to its end; as `launch`. Closes the log."""
    try:
        session = Supervisor(run, console, errors, interrupts)
    except AgenttuneError as error:
        with contextlib.suppress(StoreFault):  # a full disk is then the error's own cause, which is told
            run.log.append(StatusChanged(status="failed", reason=str(error)))
        raise
    try:
        return session.follow(opens_page)
    finally:
        session.stop_children()
        run.log.close()


def do_all(steps: Mapping[str, Callable[[], object]]) -> list[str]:
    """Do every step, whatever becomes of the others; returns what failed, in words.

    Args:
        steps: Each under what it does, such as "ending the agent".
    """
    failed = []
    for name, step in steps.items():
        try:
            step()
        except (AgenttuneError, OSError, psutil.Error) as error:
            failed.append(f"{name} failed: {error}")
    return failed


def create_run(plan: Plan) -> Run:
    """Make the run's folder, its log, and a copy of the config file."""
    config = plan.config
    job = job_of(argv=plan.command)
    continued = None if job is None else _continued(plan, job)
    if continued is not None:
        return continued
    run_id, folder = claim_folder(plan.runs_dir, config.run.name)
    place = {} if plan.place is None else {"study": plan.place.model_dump(mode="json")}
    info = RunInfo(
        run_id=run_id,
        name=config.run.name,
        status="starting",
        created_at_s=time.time(),
        tags=list(dict.fromkeys(config.run.tags)),
        goal_metric=config.goal.metric,
        goal_direction=config.goal.direction,
        pid=os.getpid(),  # until there is a script: were we killed before, nobody else would say that the run is lost
        pid_started_s=started_s(os.getpid()),
        launcher_job="" if job is None else job.key,
        rules={name: getattr(config, name).model_dump(mode="json") for name in SHARED_SETTINGS} | place,
    )
    log = RunLog.create(folder, info)
    (folder / CONFIG_COPY).write_bytes(plan.path.read_bytes())
    return Run(plan, run_id, folder, log)


def _continued(plan: Plan, job: Job) -> Run | None:
    """The run that this launcher began before its job was started again, such as by Slurm; None if there is none."""
    if not job.is_restart:
        return None
    for info in list_runs(plan.runs_dir):
        if info.launcher_job == job.key and not (info.is_live and is_alive(info.pid or 0, info.pid_started_s)):
            log = RunLog.open(Path(info.path))
            mine = {"pid": os.getpid(), "pid_started_s": started_s(os.getpid()), "started_at_s": None}
            if log.begin_attempt(job.by, "", **mine):
                return Run(plan, info.run_id, log.folder, log)
            log.close()
    return None


def claim_folder(runs_dir: Path, name: str) -> tuple[str, Path]:
    """A new folder and its name, which is free however many are made in the same second."""
    for run_id in _run_ids(name):
        folder = runs_dir / run_id
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if not folder.exists():
                problem = f"{runs_dir} cannot be the folder of runs: a file is in the way"
                raise UserError(problem, field="store.runs_dir") from None
            continue
        except OSError as error:
            problem = f"cannot use {runs_dir} as the runs folder: {error.strerror}"
            raise UserError(problem, field="store.runs_dir") from None
        return run_id, folder
    raise AssertionError("the endless supply of run ids ended")


def check_runs_dir(runs_dir: Path) -> None:
    """Raises UserError where `claim_folder` could not make a run's folder; makes nothing."""
    there = next(folder for folder in (runs_dir, *runs_dir.parents) if folder.exists())
    if not there.is_dir():
        problem = f"{runs_dir} cannot be the folder of runs: the file {there} is in the way"
        raise UserError(problem, field="store.runs_dir")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"cannot use {runs_dir} as the runs folder: {there} is not writable", field="store.runs_dir")


def _run_ids(name: str) -> Iterator[str]:
    first = f"{name}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"
    yield first
    count = 2
    while True:
        yield f"{first}-{count}"
        count += 1


class Supervisor:
    """Starts the processes of a run and looks after them.

    Args:
        run: With its log.
        console: For the live view and the report.
        errors: For what went wrong.
        interrupts: Counts Ctrl-C.
    """

    def __init__(self, run: Run, console: Console, errors: Console, interrupts: Interrupts) -> None:
        self._run, self._console, self._errors, self._interrupts = run, console, errors, interrupts
        self._ending: Ending | None = None
        self._stopping: Stopping | None = None  # a script can end before there is one
        self._disk = DiskRoom(run.folder)
        config = run.plan.config
        self._server = ServerProcess(run.plan.runs_dir, config.server, hidden=not_for_server(config))
        self._tokens = RunTokens(run.plan.runs_dir, run.run_id)
        env = self._tokens.environment(config.server.token_env)
        command, output = _agent_command(run, self._server.url), run.folder / AGENT_LOG
        self._agent = AgentProcess(command, run.plan.folder, output, env=env, hidden=not_for_agent(config))
        self._reviewer = _reviewer_of(run, self._server.url)
        try:
            self._agent.start()
            if self._reviewer is not None:
                self._reviewer.start()
            self._trainer = self._start_trainer()
        except BaseException:
            self.stop_children()
            raise
        self._stopping = Stopping(self._trainer.signal, self._ask_to_stop)

    def _start_trainer(self) -> TrainingProcess:
        run = self._run
        marks = {"AGENTTUNE_RUN_ID": run.run_id, "AGENTTUNE_RUNS_DIR": str(run.plan.runs_dir)}
        env = {
            **launcher_environ(run.plan.config.run),
            **run.plan.config.run.env,
            **marks,
            "AGENTTUNE_SERVER_URL": self._server.url,
            "AGENTTUNE_RANK_FAILURES": str(run.folder / RANK_FAILURES),
        }
        (run.folder / RANK_FAILURES).unlink(missing_ok=True)  # of the attempt before, where a job is started again
        # Killed between the script's start and the note of its pid, we must not have the run called lost: it trains.
        run.log.update_info(pid=None, pid_started_s=None)
        try:
            hidden = not_for_script(run.plan.config)
            process = spawn(run.plan.command, run.plan.folder, run.folder / TRAINER_LOG, env, hidden)
        except OSError as error:
            raise SystemFault(f"the script could not be started: {error}") from None
        try:
            run.log.update_info(pid=process.pid, pid_started_s=started_s(process.pid))
        except BaseException:  # nobody would look after it
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        is_launcher = run.plan.config.run.launcher != "python"
        return TrainingProcess(process, self._record_end, marks if is_launcher else None)

    def _record_end(self, exit_status: int) -> None:
        """In the thread that waits for the script: close the log if the script did not."""
        log = RunLog.open(self._run.folder)
        try:
            trained = bool(log.events(kinds=["run_started"], limit=1))
            said = own_error(self._run.folder / TRAINER_LOG) if exit_status > 0 else ""
            interrupted = self._why_interrupted()
            ranks = rank_words(self._run.folder / RANK_FAILURES, by_us=bool(interrupted))
            self._ending = ending_of(exit_status, log.info(), trained, interrupted, said, ranks)
            log.append(StatusChanged(status=self._ending.status, reason=self._ending.reason), step=log.info().step)
            told = log.info().status_reason
            is_told = bool(told) and told in self._ending.reason and ranks in told
            if not self._ending.ok and not is_told:
                log.append(NoteAdded(text=self._ending.reason, author=LAUNCHER), step=log.info().step)
        finally:
            log.close()

    def _why_interrupted(self) -> str:
        return "" if self._stopping is None else self._stopping.forced

    def follow(self, opens_page: bool = False) -> int:
        """Show the run until its script ends; returns the exit code."""
        run, url = self._run, self._server.url
        # A file or a pipe is no place for a key.
        page = self._tokens.link(url) if self._console.is_terminal else f"{url}/runs/{run.run_id}"
        page = f"page  {page}"
        self._console.print(Text(page, style="dim"), soft_wrap=True, highlight=False)
        approvals = ApprovalPrompt(LocalControl(run.plan.runs_dir), run.run_id, user_name())
        view = view_for(self._console, run.folder, run.plan.subject, url, approvals, page)
        try:
            unopened = NO_BROWSER if opens_page and not self._tokens.open_page(url) else ""
            for notice in filter(None, (run.plan.notice, self._server.address.notice, unopened)):
                view.notice(notice)
            while not self._trainer.ended.wait(view.patience_s):
                self._look_after(view)
                view.refresh()
            self._agent.stop()
        except SystemFault as error:
            pid = self._trainer.pid
            raise SystemFault(f"{error}; training goes on by itself in process {pid} (kill {pid} ends it)") from error
        finally:
            view.close()
        fault = self._trainer.fault
        if fault is None:
            return self._conclude()
        if self._ending is None:
            raise fault
        self._errors.print(Text(f"error: {fault}", style="bold red"), soft_wrap=True)
        return self._conclude() or 1

    def _look_after(self, view: View) -> None:
        if self._stopping is not None and (words := self._stopping.step(self._interrupts.count)):
            view.notice(words)
        if words := self._disk.news():
            view.notice(words)
        said = [self._server.restart_if_dead(lambda: self._run.log.info().is_live)]
        if self._run.log.info().is_live:
            said += [self._agent.restart_if_dead(), self._reviewer.restart_if_dead() if self._reviewer else ""]
        for words in filter(None, said):
            try:
                # Into the log, from where the view takes it: the report tells it too.
                self._run.log.append(NoteAdded(text=words, author=LAUNCHER), step=self._run.log.info().step)
            except StoreFault as fault:
                view.notice(f"{words} (not in the log: {fault})")

    def _ask_to_stop(self) -> tuple[str, bool]:
        """Ask the trainer to stop, through the same gate as everybody; a run that never began is just ended."""
        log = self._run.log
        if not log.events(kinds=["run_started"], limit=1):
            return "interrupted before training began", False
        proposal = Proposal(
            command=StopTraining(save=True),
            author=Author(principal="operator", name=LAUNCHER),
            rationale=f"{(self._interrupts.first or signal.SIGINT).name} in the terminal",
        )
        try:
            record = LocalControl(self._run.plan.runs_dir).submit(self._run.run_id, proposal)
        except RunEnded:
            return "training has ended already; waiting for the script", True
        except StoreFault as fault:  # a full disk: the script must end all the same
            return f"it cannot be asked to stop: {fault}", False
        if record.state is not State.QUEUED:
            reason = record.verdict.reason if record.verdict else record.state.value
            return f"stop_training was refused: {reason}", False
        return "asked the trainer to save a checkpoint and stop", True

    def _conclude(self) -> int:
        ending, run = self._ending, self._run
        if ending is None:
            raise AssertionError("the training process ended without an ending")
        trained = bool(run.log.events(kinds=["run_started"], limit=1))
        if trained:
            print_report(self._console, read_journal(run.log))
        if not ending.ok and not self._interrupts.count:
            self._explain(ending)
        if trained or not ending.ok:
            again = report_command(run.run_id, run.plan.runs_dir)
            self._console.print(Text.assemble(("again      ", "dim"), again), soft_wrap=True)
        if self._interrupts.count:
            return self._interrupts.exit_code
        return 0 if ending.ok else 1

    def _explain(self, ending: Ending) -> None:
        """On the error stream: what happened and the end of the script's own output."""
        path = self._run.folder / TRAINER_LOG
        for line in [] if ending.is_plain else tail(path):
            self._errors.print(Text(f"  {line}", style="dim"), soft_wrap=True)
        self._errors.print(Text(f"error: {ending.reason}", style="bold red"), soft_wrap=True)
        self._errors.print(Text(f"the script's whole output: {path}"), soft_wrap=True)

    def stop_children(self) -> None:
        """End the agent and the reviewer, and the server unless other runs need it. What fails is told on the way."""
        steps: dict[str, Callable[[], object]] = {"ending the agent": self._agent.stop}
        if self._reviewer is not None:
            steps["ending the reviewer"] = self._reviewer.stop
        # Tokens that cannot be taken back end a minute after their run all the same.
        steps |= {"taking back the run's tokens": self._tokens.revoke, "ending the control server": self._stop_server}
        for words in do_all(steps):
            self._errors.print(Text(words, style="yellow"), soft_wrap=True)

    def _stop_server(self) -> None:
        live = {info.run_id for info in list_runs(self._run.plan.runs_dir) if info.is_live}
        if not live - {self._run.run_id}:
            self._server.stop()


def _agent_command(run: Run, url: str) -> list[str]:
    plan = run.plan
    command = [sys.executable, "-m", "agenttune", "attach", url, "--run", run.run_id]
    return [*command, "--policy", plan.config.policy, "--config", str(plan.path)]


def _reviewer_of(run: Run, url: str) -> AgentProcess | None:
    """The process of the approver `model`, of the user's own approvers and channels; None: there are none."""
    plan = run.plan
    gate = plan.config.gate
    if not (gate.asks_model or gate.own_approvers or plan.config.notify.channels):
        return None
    command = [sys.executable, "-m", "agenttune", "review", "--run", run.run_id, "--config", str(plan.path)]
    command += ["--runs-dir", str(plan.runs_dir), "--url", url]
    hidden = not_for_reviewer(plan.config)
    return AgentProcess(command, plan.folder, run.folder / REVIEWER_LOG, name="the reviewer", hidden=hidden)
