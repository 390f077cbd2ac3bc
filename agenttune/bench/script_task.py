"""A script of the user's own as a task: run as `agenttune run` runs it, in its three processes, and read from its log.

The script says itself how many steps it makes. Its result is the last evaluation that came within the scenario's steps,
with those that a return undid and those of probes; a policy that goes back or probes is therefore judged by an earlier
point of its run. Once more steps are made than are paid for, nothing that comes can count any more: the run is told to
stop, as anybody could tell it, so that nobody waits for the rest. `none` is the script beside a policy that
does nothing, with training that waits for nobody: somebody has to keep the log. Every policy runs in lockstep, so that
the load of the machine decides nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from agenttune.bench.cell import Outcome, Script
from agenttune.bench.contenders.contender import Trial
from agenttune.bench.faults import FaultKind
from agenttune.bench.in_process import outcome_of
from agenttune.bench.run_course import course_of, names_in, within_budget
from agenttune.bench.settings import BenchSettings
from agenttune.bench.total_steps import TotalSteps
from agenttune.bench.training import Recipe, Trained
from agenttune.errors import ConfigError
from agenttune.protocol.commands import StopTraining
from agenttune.protocol.proposals import Author, Proposal, Verdict
from agenttune.store.run_folders import newest_names
from agenttune.store.run_log import RunLog

NOTHING = "noop"
APPLY = {"none": NOTHING, "sham": NOTHING}
"""Contenders beside the policies that a script can have, and the policy that each is."""
FIGURES = ("lr", "seed", "steps", "eval_every", "warmup_frac", "weight_decay", "schedule", "optimizer")
"""What may stand between braces in a script's arguments."""
OUTPUT_CHARACTERS = 2000
PR_SET_PDEATHSIG = 1
WAIT_S = 0.5
"""How often a script's log is looked at."""
BENCHMARK = Author(principal="operator", name="benchmark")


class ScriptFailed(Exception):
    """The script, or the run of it, ended with an error."""


def applies_to_scripts(spec: dict[str, Any]) -> bool:
    """Whether a contender can take part in a script: what changes its loop from inside cannot."""
    return spec["type"] in APPLY or (spec["type"] == "policy" and set(spec) <= {"type", "policy"})


def no_fault_of_script(kind: FaultKind, script: Script) -> str:
    """Why a script cannot suffer a fault; empty if it can."""
    if kind.name == "healthy":
        return ""
    if "lr_factor" in kind.development and any("{lr}" in arg for arg in script.args):
        return ""
    return (
        f"a script of your own can be healthy, or have a rate that is wrong (lr_x10, ...) where {{lr}} stands in its "
        f"args; {kind.name} would have to be put into its loop"
    )


def filled(args: list[str], recipe: Recipe, seed: int) -> list[str]:
    """The arguments with the figures of a cell.

    Raises:
        ConfigError: A name between braces is none of them.
    """
    values = {"seed": seed, **{name: getattr(recipe, name) for name in FIGURES if name != "seed"}}
    try:
        return [arg.format(**values) for arg in args]
    except (KeyError, IndexError, ValueError) as error:
        raise ConfigError(
            f"args: {error} between braces is none of {', '.join(FIGURES)}; write {{{{ for a brace that is meant"
        ) from None


def play_script(trial: Trial, script: Script) -> Outcome:
    """Run a cell of a script.

    Raises:
        ScriptFailed: It ended with an error, or its log has no evaluation.
        ConfigError: The script is not there.
    """
    runs = trial.folder / "runs"
    with _config(trial, script) as config:
        _run(config, runs, trial.folder, trial.budget)
    newest = newest_names(runs)
    if not newest:
        raise ScriptFailed(f"{script.path} left no run's log; does it call make_interactive or agenttune.session?")
    log = RunLog.open(runs / newest[0])
    try:
        return outcome_of(log, _trained(log, script, trial.budget)).model_copy(update={"fault": trial.fault})
    finally:
        log.close()


@contextlib.contextmanager
def _config(trial: Trial, script: Script) -> Iterator[Path]:
    """A config file in the project's folder, where the script runs and its own files are."""
    spec, settings = trial.cell.spec, BenchSettings.model_validate(trial.cell.settings)
    wake = settings.wake.model_copy(update={"mode": "async" if spec["type"] == "none" else "lockstep"})
    content = {
        **{key: value for key, value in trial.cell.settings.items() if key != "finds"},
        "run": {"script": script.path, "args": filled(script.args, trial.recipe, trial.cell.seed)},
        "goal": {"metric": script.metric, "direction": script.direction},
        "policy": APPLY.get(spec["type"]) or spec["policy"],
        "wake": wake.model_dump(mode="json"),
    }
    path = trial.project / f".agenttune-bench-{trial.cell.key}.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _run(config: Path, runs: Path, folder: Path, budget: int) -> None:
    command = [sys.executable, "-m", "agenttune", "run", str(config), "--runs-dir", str(runs)]
    output = folder / "script.txt"
    with (
        output.open("wb") as file,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            preexec_fn=_end_with_worker,  # noqa: PLW1509 - one system call, and no lock is taken
        ) as process,
    ):
        try:
            _wait(process, runs, budget)
        except BaseException:
            process.terminate()  # it ends its processes
            raise
    if process.returncode != 0:
        said = output.read_text(encoding="utf-8", errors="replace")[-OUTPUT_CHARACTERS:]
        raise ScriptFailed(f"agenttune run ended with exit code {process.returncode}:\n{said}")


def _wait(process: subprocess.Popen[bytes], runs: Path, budget: int) -> None:
    """Until the run has ended; tell it to stop when its budget is spent."""
    is_told = False
    while process.poll() is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(WAIT_S)
        if not is_told and process.returncode is None:
            is_told = _stopped_beyond(runs, budget)


def _stopped_beyond(runs: Path, budget: int) -> bool:
    """Tell a run to stop if it has made more steps than that; whether there is no more to be told."""
    newest = newest_names(runs)
    if not newest:
        return False
    with contextlib.closing(RunLog.open(runs / newest[0])) as log:
        info = log.info()
        if TotalSteps(log).at(log.last_seq() + 1, info.step) <= budget:
            return False
        if info.is_live:
            stop = Proposal(command=StopTraining(save=False), author=BENCHMARK, rationale=f"{budget} steps are spent")
            log.submit(stop, Verdict(decision="approved", decided_by=BENCHMARK.name))
    return True


def _end_with_worker() -> None:
    """Linux: a worker that is killed takes the run with it, which ends its processes on SIGTERM."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _trained(log: RunLog, script: Script, budget: int) -> Trained:
    """What was reached with the steps that are paid for; what the script did beyond them does not count."""
    course = course_of(log, script.metric)
    if course is None:
        raise ScriptFailed(f"the log has no {script.metric!r}; it has: {', '.join(names_in(log)) or 'nothing'}")
    trained = within_budget(course, budget)
    if trained is None:
        first = course.evaluations[0].total_steps
        raise ScriptFailed(f"the first evaluation came after {first} steps, and {budget} are paid for")
    return trained
