"""A run's estimate: calls of language models, steps of probes, and which caps they reach."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import Field

from agenttune.config import BudgetSettings, Config
from agenttune.errors import UserError
from agenttune.launch.estimate.call_counts import ModelEstimate, estimate_models
from agenttune.launch.estimate.figures import ZERO, PastUsage, Range
from agenttune.launch.estimate.probe_steps import ProbeEstimate, estimate_probes
from agenttune.launch.estimate.study_estimate import StudyEstimate, estimate_planner, study_of, times
from agenttune.launch.run_plan import Plan
from agenttune.launch.study.planner import PLANNER
from agenttune.policy.load import open_policy
from agenttune.protocol.proposals import Record
from agenttune.protocol.run_info import RunInfo
from agenttune.store.run_log import list_runs, run_folder

PAST_RUNS = 5
"""Newest runs of the same name that are looked through for records."""


class CapReached(Record):
    """A cap of `budgets` that a run may reach; from there on it goes by its rules."""

    cap: str
    limit: float
    at_step_busy: int
    at_step_quiet: int | None = Field(None, description="None: not reached in a quiet run.")


class Estimate(Record):
    """What a run, or all runs of a study, will ask of language models, without regard to the caps; and of probes.

    Attributes:
        models: For the whole study, where there is one.
        probes, caps: Of each run with the file's policy.
    """

    policy: str
    steps: int
    steps_from: str
    study: StudyEstimate | None = Field(None, description="None: it is a single run.")
    models: list[ModelEstimate] = Field(default_factory=list)
    probes: ProbeEstimate | None = Field(None, description="None: no part of the policy probes.")
    caps: list[CapReached] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)


def estimate(plan: Plan, steps: int | None = None) -> Estimate:
    """Estimate a run, or a study of several.

    Args:
        plan: As it would be started.
        steps: How long it will be; default: as the newest finished run of the same name.

    Raises:
        ConfigError: The policy is wrong.
        UserError: No run of that name has finished, and no number of steps is given.
    """
    config, context, runs_dir = plan.config, plan.context, plan.runs_dir
    loaded, study = open_policy(config.policy, context), study_of(config)
    past_runs = [info for info in list_runs(runs_dir) if info.name == config.run.name and info.step > 0]
    count, steps_from = (steps, "given") if steps is not None else _steps_of(past_runs, config.run.name)
    records = [PastUsage.of(run_folder(runs_dir, info.run_id), info) for info in past_runs[:PAST_RUNS]]
    a_run = list(estimate_models(loaded.policy, config, count, records))
    models = a_run
    if study is not None:
        models = [times(model, study.acting) for model in a_run if study.acting]
        for name in study.references:
            models += estimate_models(open_policy(name, context).policy, config, count, records)
        models += estimate_planner(study, config, plan.folder, runs_dir)
    notes = [loaded.notice] if loaded.notice else []
    return Estimate(
        policy=loaded.policy.name,
        steps=count,
        steps_from=steps_from,
        study=study,
        models=models,
        probes=estimate_probes(loaded.policy, config, count, records),
        caps=list(_caps(a_run, config.budgets, count)),
        notes=[*notes, *_notes(models, config, study)],
    )


def _steps_of(past_runs: Sequence[RunInfo], name: str) -> tuple[int, str]:
    finished = next((info for info in past_runs if info.status == "finished"), None)
    if finished is None:
        raise UserError(
            f"how many steps the run has is not known before it starts, and no run named {name!r} has finished yet; "
            "give them with --steps",
            field="steps",
        )
    return finished.step, f"as in {finished.run_id}"


def _caps(models: Sequence[ModelEstimate], budgets: BudgetSettings, steps: int) -> Iterator[CapReached]:
    totals: dict[str, tuple[float | None, Range]] = {
        "max_calls": (budgets.max_calls, sum((m.calls for m in models), ZERO)),
        "max_tokens": (budgets.max_tokens, sum((m.tokens for m in models), ZERO)),
        "max_usd": (budgets.max_usd, sum((m.usd for m in models if m.usd is not None), ZERO)),
    }
    for cap, (limit, total) in totals.items():
        if limit is not None and total.high > limit:
            quiet = int(steps * limit / total.low) if total.low > limit else None
            yield CapReached(cap=cap, limit=limit, at_step_busy=int(steps * limit / total.high), at_step_quiet=quiet)


def _notes(models: Sequence[ModelEstimate], config: Config, study: StudyEstimate | None) -> Iterator[str]:
    if study is not None and study.why_no_plans:
        yield f"no round can be planned: {study.why_no_plans}; the study ends after round 0 and the references"
    if not models:
        yield "no language model will be called"
        return
    if any(not model.recorded_calls for model in models):
        yield "without records of past runs, tokens are those of rendered prompts at four letters a token"
    unpriced = dict.fromkeys(model.model for model in models if model.usd is None)
    if unpriced:
        yield f"unknown price of {', '.join(unpriced)}: add it under llm.prices"
    else:
        yield "cached input, which costs less, is not taken into account"
    if study is not None and study.acting:
        yield from _caps_of_plans(models, config.budgets)


def _caps_of_plans(models: Sequence[ModelEstimate], budgets: BudgetSettings) -> Iterator[str]:
    """Caps that plans and reflections, which have a ledger of their own, may reach; the study stops there."""
    for cap in _caps([model for model in models if model.policy == PLANNER], budgets, steps=100):
        quiet = "not in a quiet study" if cap.at_step_quiet is None else f"{cap.at_step_quiet} % of a quiet one"
        yield (
            f"{cap.cap} {cap.limit:g} is reached by plans and reflections after about {cap.at_step_busy} % of a busy "
            f"study, {quiet}; it stops there and can be continued with --resume"
        )
