"""`agenttune bench score runs/`: the benchmark's metrics for real runs, with and without a policy.

Runs of the same script and arguments are one scenario; those in which no policy acted are its `none`. What was wrong
with them nobody knows, and no oracle has run: there is no regret, and everything else is measured as in a suite.
"""

from __future__ import annotations

import hashlib
import math
import re
import shlex
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from agenttune.bench.catalog import TaskFacts
from agenttune.bench.cell import NONE, Cell, CellResult, Intervention, Outcome, Scenario
from agenttune.bench.faults import AS_IT_WAS
from agenttune.bench.run_course import course_of
from agenttune.bench.statistics import FEWEST_SEEDS
from agenttune.bench.total_steps import TotalSteps
from agenttune.bench.training import Recipe, Trained
from agenttune.config import load_yaml
from agenttune.errors import ConfigError, UserError
from agenttune.launch.supervisor import CONFIG_COPY
from agenttune.protocol.events import RunStarted
from agenttune.protocol.proposals import TAKEN, Record
from agenttune.protocol.run_info import RunInfo
from agenttune.protocol.summary import RunSummary
from agenttune.protocol.text import clean, plural
from agenttune.store.journal.goal_metric import EVERYTHING
from agenttune.store.journal.run_summary import summarize
from agenttune.store.run_log import RunLog, list_runs, run_folder

DOES_NOTHING = frozenset({"noop"})
"""Policies of ours that never act."""
_SEED = re.compile(r"(?:^|\s)-{0,2}(?:\w+[._-])?seed[= ](\d+)(?=\s|$)", re.IGNORECASE)
SEED_MARK = " SEED"
ENDED_WELL = frozenset({"finished", "stopped"})
ENDED_BADLY = frozenset({"failed", "lost"})


@dataclass(frozen=True)
class ScoredRuns:
    """Real runs as cells.

    Attributes:
        tasks: One a script.
        folders: Of the runs, by the key of their cell.
        notes: What was left out, and what is missing for a claim.
    """

    results: Sequence[CellResult]
    tasks: dict[str, TaskFacts]
    folders: dict[str, Path]
    notes: Sequence[str]


class _RunPart(BaseModel):
    model_config = ConfigDict(extra="ignore")
    script: str | None = None
    module: str | None = None
    args: list[Any] = Field(default_factory=list)


class _ConfigCopy(BaseModel):
    """Just enough of a run's config file to see what was trained; written by whatever version."""

    model_config = ConfigDict(extra="ignore")
    run: _RunPart = _RunPart()


class _Run(Record):
    """A run that has ended."""

    info: RunInfo
    summary: RunSummary
    course: Trained | None
    found_steps: list[int]
    asked_steps: dict[str, int]
    task: str
    arguments: str
    seed: int | None
    config: str
    framework: str


def score_runs(runs_dir: Path) -> ScoredRuns:
    """Read all runs of a folder.

    Raises:
        UserError: None of them has ended with a value of its goal.
    """
    found, left_out = [], []
    for info in list_runs(runs_dir):
        if info.status not in ENDED_WELL | ENDED_BADLY:
            left_out.append(f"{info.run_id} is {info.status}")
            continue
        with closing(RunLog.open_to_read(run_folder(runs_dir, info.run_id))) as log:
            run = _read(log, info)
        if run.course is not None or info.status in ENDED_BADLY:
            found.append(run)
        else:
            left_out.append(f"{info.run_id} was never evaluated")
    if not found:
        why = f" ({clean('; '.join(left_out[:5]), 300)})" if left_out else ""
        raise UserError(f"no run in {runs_dir} has ended with a value of its goal{why}; agenttune runs lists them")
    return _scored(found, left_out, runs_dir)


def _scored(found: Sequence[_Run], left_out: list[str], runs_dir: Path) -> ScoredRuns:
    results: dict[tuple[str, str, int], CellResult] = {}
    folders: dict[str, Path] = {}
    tasks = {task: _facts(task, [run for run in found if run.task == task]) for task in {run.task for run in found}}
    for number, run in enumerate(sorted(found, key=lambda run: run.info.created_at_s)):
        result = _result(run, number)
        key = (result.cell.scenario.name, result.cell.contender, result.cell.seed)
        if key in results:
            left_out.append(f"an earlier run of the same as {run.info.run_id}")
        results[key] = result
        folders[result.cell.key] = runs_dir / run.info.run_id
    notes = list(_notes(list(results.values()), [run for run in found if run.seed is None]))
    if left_out:
        notes.append(f"Left out: {clean('; '.join(left_out), 600)}.")
    return ScoredRuns(list(results.values()), tasks, folders, notes)


def _notes(results: Sequence[CellResult], unseeded: Sequence[_Run]) -> Iterator[str]:
    """What is missing for a claim."""
    cells: dict[str, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
    for result in results:
        cells[result.cell.scenario.name][result.cell.contender].add(result.cell.seed)
    if unseeded:
        yield (
            f"{plural(len(unseeded), 'run')} without a seed in the script's arguments: these cannot be paired. Let the "
            "script take --seed N, and run each N with and without a policy."
        )
    for scenario, contenders in sorted(cells.items()):
        name = clean(scenario, 80)
        if NONE not in contenders:
            yield f"{name}: no run without a policy, so nothing to compare with; run it with: --policy noop"
        for contender, seeds in sorted(contenders.items()):
            pairs = len(seeds & contenders.get(NONE, set()))
            if contender != NONE and NONE in contenders and pairs < FEWEST_SEEDS:
                yield (
                    f"{name}: {clean(contender, 40)} and no policy have {plural(pairs, 'seed')} in common; "
                    f"{FEWEST_SEEDS} are the least for a claim."
                )


def _read(log: RunLog, info: RunInfo) -> _Run:
    summary = summarize(log)
    task, arguments, config = _what_was_trained(log.folder, info)
    seed, total = _SEED.search(arguments), TotalSteps(log)
    started = [event.body for event in log.events(kinds=["run_started"], limit=1)]
    asked = {event.command_id: event.seq for event in log.events(kinds=["proposed"], limit=EVERYTHING)}
    return _Run(
        info=info,
        summary=summary,
        course=course_of(log, info.goal_metric),
        found_steps=[total.at(e.seq, e.step or 0) for e in log.events(kinds=["found"], limit=EVERYTHING)],
        asked_steps={
            i.command_id: total.at(asked[i.command_id], i.proposed_at_step or 0)
            for i in summary.interventions
            if i.command_id in asked
        },
        task=task,
        arguments=_SEED.sub(SEED_MARK, arguments),
        seed=int(seed.group(1)) if seed is not None else None,
        config=config,
        framework=started[0].framework if started and isinstance(started[0], RunStarted) else "",
    )


def _what_was_trained(folder: Path, info: RunInfo) -> tuple[str, str, str]:
    """Script, its arguments, and a checksum of the config file; of a script's own run the name and the model."""
    path = folder / CONFIG_COPY
    if path.is_file():
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        try:
            run = load_yaml(path, _ConfigCopy).run
        except ConfigError:  # of a version whose files were written otherwise: its name has to do
            return info.name, "", digest
        return run.script or run.module or info.name, shlex.join(map(str, run.args)), digest
    model = info.facts.model if info.facts is not None else ""
    return info.name, model, ""


def _facts(task: str, runs: Sequence[_Run]) -> TaskFacts:
    """The target is what doing nothing reaches."""
    untouched = [run.course.final for run in runs if run.course is not None and _contender(run) == NONE]
    finite = [value for value in untouched if math.isfinite(value)]
    return TaskFacts(
        name=task,
        about="real runs",
        tier=2,
        implementation="",
        recipe=_recipe(runs[0].info),
        target=median(finite) if finite else math.nan,
        metric=runs[0].info.goal_metric,
        direction=runs[0].info.goal_direction,
    )


def _recipe(info: RunInfo) -> Recipe:
    """Its length; the rest is the script's own affair."""
    return Recipe(lr=0.0, steps=info.max_steps or info.step or 1, eval_every=1)


def _contender(run: _Run) -> str:
    acting = [policy for policy in dict.fromkeys(run.summary.policies) if policy not in DOES_NOTHING]
    by_agent = [i for i in run.summary.interventions if i.principal != "trainer" and i.state in TAKEN]
    if not acting:
        return "by hand" if by_agent else NONE
    return ", then ".join(acting)


def _result(run: _Run, number: int) -> CellResult:
    info, summary = run.info, run.summary
    failed = info.status in ENDED_BADLY
    label = " ".join(filter(None, [run.arguments, f"{info.max_steps} steps" if info.max_steps else ""]))
    return CellResult(
        cell=Cell(
            scenario=Scenario(task=run.task, fault=AS_IT_WAS.name, recipe=_recipe(info), label=label),
            seed=run.seed if run.seed is not None else -1 - number,  # of its own: it has no partner
            split="development",
            contender=_contender(run),
            spec={"run": info.run_id},
            code={CONFIG_COPY: run.config} if run.config else {},
        ),
        state="failed" if failed else "done",
        outcome=Outcome(
            trained=None if failed else run.course,
            interventions=list(_interventions(run)),
            findings=[found.finding for found in summary.findings],
            found_steps=run.found_steps,
            tokens_in=summary.cost.input_tokens,
            tokens_out=summary.cost.output_tokens,
            calls=summary.cost.calls,
            usd=summary.cost.usd or 0.0,
            failure=f"the run is {info.status}: {info.status_reason}" if failed else "",
        ),
        machine={"framework": run.framework} if run.framework else {},
        at_s=info.ended_at_s or info.created_at_s,
    )


def _interventions(run: _Run) -> Iterator[Intervention]:
    for i in run.summary.interventions:
        if i.principal != "trainer":
            yield Intervention(
                kind=i.kind,
                step=i.applied_at_step or i.proposed_at_step or 0,
                state=i.state.value,
                words=clean(f"{i.summary}: {i.rationale}", 300),
                total_steps=run.asked_steps.get(i.command_id),
            )
