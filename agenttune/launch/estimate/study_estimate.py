"""What a study of several runs will ask of language models: its plans and reflections, and the policies of its runs."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from agenttune.config import Config
from agenttune.errors import StoreFault
from agenttune.launch.estimate.call_counts import ModelEstimate, priced, usable
from agenttune.launch.estimate.figures import Range
from agenttune.launch.study.planner import MAX_REPAIRS, PLANNER, Planner
from agenttune.launch.study.records import Arm
from agenttune.launch.study.state import Reflection, RoundRun, Study
from agenttune.launch.study.study_log import list_studies, read_entries
from agenttune.llm import is_configured
from agenttune.llm.prompts import Prompts
from agenttune.policy.llm.digest import tokens_estimate
from agenttune.policy.llm.past_runs import PastRun
from agenttune.policy.llm.sample_run import STEPS, sample_observation
from agenttune.protocol.model_calls import ModelCalled
from agenttune.protocol.proposals import Record
from agenttune.protocol.run_info import RunInfo
from agenttune.protocol.summary import MetricAt, RunSummary, Score

FORMER_STUDIES = 3
"""Newest studies of the same name that are looked through for records."""
log = logging.getLogger(__name__)


class StudyEstimate(Record):
    """The runs of a study.

    Attributes:
        acting: Runs with the file's policy: one a round.
        references: Policies that run once beside them.
        untouched: Runs with nobody acting: round 0, and each round's plan alone.
        why_no_plans: Why no round can be planned, so that the study ends after the references; empty if it can.
    """

    rounds: int
    acting: int
    references: list[str]
    untouched: int
    why_no_plans: str = ""

    @property
    def runs(self) -> int:
        return self.acting + len(self.references) + self.untouched


def study_of(config: Config, environ: Mapping[str, str] = os.environ) -> StudyEstimate | None:
    """What runs there will be; None of a single run."""
    rounds = config.rounds
    if not rounds.count:
        return None
    why_not = is_configured(config.llm, environ)
    acting = 0 if why_not else rounds.count
    alone = acting if rounds.plan_only else 0
    return StudyEstimate(
        rounds=rounds.count,
        acting=acting,
        references=list(rounds.references),
        untouched=1 + alone,
        why_no_plans=why_not,
    )


def estimate_planner(study: StudyEstimate, config: Config, folder: Path, runs_dir: Path) -> Iterator[ModelEstimate]:
    """The calls for plans, which may be mended, and for reflections."""
    if not study.acting:
        return
    planner = Planner(
        None, Prompts(folder), config.goal, config.rounds.parameters, config.run.args, record=lambda call: None
    )
    planner.check()
    known = list(_recorded(runs_dir, config))
    count = Range(low=study.rounds, high=study.rounds)
    model = config.llm.model or ""
    # A prompt holds what was before it: the mean of the first and the last round's stands for all.
    ends = [_sample_study(config, done) for done in (0, study.rounds - 1)]
    past = {run.run_id: PastRun(sample_observation(), 60.0) for run in ends[-1].runs}
    if config.rounds.parameters:
        tokens = fmean(_tokens(planner.plan_prompt(s, study.rounds, config.run.script or "", past).text) for s in ends)
        a_plan = Range(low=1, high=1 + MAX_REPAIRS)
        yield priced(PLANNER, model, "plans", count, a_plan, tokens, "plan", usable(known, model, "plan"), config)
    summary = _sample_summary(config)
    tokens = fmean(_tokens(planner.reflect_prompt(s, study.rounds, summary, past).text) for s in ends)
    once, reflections = Range(low=1, high=1), usable(known, model, "reflect")
    yield priced(PLANNER, model, "reflects", count, once, tokens, "reflect", reflections, config)


def times(model: ModelEstimate, runs: int) -> ModelEstimate:
    """What a model of one run takes in so many of them."""
    return model.model_copy(
        update={
            "runs": runs,
            "decisions": model.decisions.scaled(runs),
            "calls": model.calls.scaled(runs),
            "input_tokens": model.input_tokens.scaled(runs),
            "output_tokens": model.output_tokens.scaled(runs),
            "usd": None if model.usd is None else model.usd.scaled(runs),
        }
    )


def _tokens(text: str) -> float:
    return float(tokens_estimate(text))


def _recorded(runs_dir: Path, config: Config) -> Iterator[ModelCalled]:
    """Calls for plans and reflections in past studies of this name."""
    named = [study for study in list_studies(runs_dir) if study.startswith(f"{config.run.name}-study-")]
    for study in named[:FORMER_STUDIES]:
        try:
            entries = read_entries(runs_dir / study)
        except StoreFault as error:
            log.warning("the study %s tells nothing: %s", study, error)
            continue
        yield from (entry.body for entry in entries if isinstance(entry.body, ModelCalled))


def _sample_study(config: Config, done: int) -> Study:
    """A study of usual size with so many rounds behind it."""
    arms: Sequence[Arm] = ("act", "plan_only") if config.rounds.plan_only else ("act",)
    runs = [_sample_run(config, 0, "untouched")]
    runs += [_sample_run(config, 0, "reference", name) for name in config.rounds.references]
    runs += [_sample_run(config, number + 1, arm) for number in range(done) for arm in arms]
    said = "a rate of 0.01 was better than 0.1, and cutting it late gained little; try less warm-up. " * 5
    return Study(
        study="estimate",
        path="",
        status="running",
        goal_metric=config.goal.metric,
        goal_direction=config.goal.direction,
        count=config.rounds.count,
        settings={},
        runs=runs,
        plans=[],
        reflections=[Reflection(round=number + 1, text=said) for number in range(done)],
        notes=[],
        calls=0,
        tokens=0,
        usd=None,
    )


def _sample_run(config: Config, number: int, arm: Arm, policy: str = "") -> RoundRun:
    point = MetricAt(step=STEPS, value=1.2345)
    score = Score(metric=config.goal.metric, direction=config.goal.direction, first=point, last=point, best=point)
    start = {name: p.minimum for name, p in config.rounds.parameters.items()} if number else {}
    return RoundRun(
        round=number,
        arm=arm,
        policy=policy or config.policy,
        run_id=f"{arm}-{number}-{policy}",
        start=start,
        args=[],
        outcome="finished",
        steps=STEPS,
        score=score,
        change_percent=-1.0,
        commands=3,
    )


def _sample_summary(config: Config) -> RunSummary:
    info = RunInfo(run_id="estimate", name=config.run.name, status="finished", created_at_s=0.0, step=STEPS)
    return RunSummary(run=info, duration_s=60.0, interventions=[], findings=[], policies=[], notes=[])
