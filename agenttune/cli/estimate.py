"""What a run will cost, before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agenttune.cli.app import ConfigPath, Json, RunsDir, app

if TYPE_CHECKING:
    from agenttune.launch.estimate import Estimate, ModelEstimate, ProbeEstimate, Range, StudyEstimate


@app.command()
def estimate(
    config: ConfigPath = Path("config.yaml"),
    steps: Annotated[
        int | None,
        typer.Option("--steps", min=1, help="Optimizer steps. Default: as the newest finished run of this name."),
    ] = None,
    json_: Json = False,
    runs_dir: RunsDir = None,
) -> None:
    """Estimate what the language models and the probes of a run will cost, without calling any."""
    from agenttune.launch import make_plan
    from agenttune.launch.estimate import estimate as estimate_run

    found = estimate_run(make_plan(config, runs_dir), steps)
    if json_:
        typer.echo(found.model_dump_json(indent=2))
        return
    for line in _lines(found):
        typer.echo(line)


def _lines(found: Estimate) -> list[str]:
    lines = [f"policy     {found.policy}", f"steps      {found.steps} ({found.steps_from})"]
    if found.study is not None:
        lines.append(_study_line(found.study))
    if not found.models:
        lines.append("calls      0: it costs nothing" if found.probes is None else "calls      0")
    for model in found.models:
        lines += _model_lines(model, found.study is not None)
    if len(found.models) > 1:
        lines += _whole_lines(found.models)
    for cap in found.caps:
        quiet = "not in a quiet one" if cap.at_step_quiet is None else f"step {cap.at_step_quiet} of a quiet one"
        lines.append(
            f"cap        {cap.cap} {cap.limit:g} is reached about step {cap.at_step_busy} of a busy run, {quiet}; "
            "from there the rules go on alone"
        )
    if found.probes is not None:
        lines += _probe_lines(found.probes, found.steps)
    return lines + [f"note       {note}" for note in found.notes]


def _study_line(study: StudyEstimate) -> str:
    runs = [f"{study.untouched} untouched"]
    runs += [f"{len(study.references)} of {', '.join(study.references)}"] if study.references else []
    runs += [f"{study.acting} with the policy"]
    return f"study      {study.rounds} rounds, {study.runs} runs of so many steps each: {', '.join(runs)}"


def _whole_lines(models: Sequence[ModelEstimate]) -> list[str]:
    from agenttune.launch.estimate import Range
    from agenttune.protocol.text import dollars, tokens

    none = Range(low=0, high=0)
    calls, whole = sum((m.calls for m in models), none), sum((m.tokens for m in models), none)
    priced = [model.usd for model in models if model.usd is not None]
    usd = sum(priced, none)
    money = f", {dollars(usd.low)} to {dollars(usd.high)}" if len(priced) == len(models) else ""
    return [f"together   {_range(calls)} calls, {tokens(whole.low)} to {tokens(whole.high)} tokens{money}"]


def _model_lines(model: ModelEstimate, in_study: bool) -> list[str]:
    from agenttune.protocol.text import dollars, tokens

    source = f"from {model.recorded_calls} recorded calls" if model.recorded_calls else "from rendered prompts"
    money = f"unknown price of {model.model}"
    if model.usd is not None:
        money = f"{dollars(model.usd.low)} to {dollars(model.usd.high)}"
    what = {"plans": "plans", "reflects": "reflections"}.get(model.role, "decisions")
    runs = f" over {model.runs} runs" if in_study and model.runs > 1 else ""
    return [
        f"model      {model.model} {model.role} in {model.policy}: {_range(model.decisions)} {what}{runs}, "
        f"{_range(model.calls)} calls",
        f"tokens     {tokens(model.input_tokens.low)} to {tokens(model.input_tokens.high)} in, "
        f"{tokens(model.output_tokens.low)} to {tokens(model.output_tokens.high)} out, {source}",
        f"money      {money}",
    ]


def _probe_lines(probes: ProbeEstimate, steps: int) -> list[str]:
    from agenttune.protocol.text import dollars, duration

    who, extra = ", ".join(probes.policies), probes.extra_steps
    if extra is None:
        lines = [f"probes     of {who}: any number of extra steps"]
    else:
        count = "" if probes.probes is None else f"{_range(probes.probes)} wanted by "
        share = f"{_range(extra.scaled(100 / steps))} % of the run's"
        end = f", at most {round(extra.high)} by {probes.cap}" if probes.capped else ""
        lines = [f"probes     {count or 'of '}{who}: {_range(extra)} extra steps ({share}){end}"]
    if probes.seconds is not None:
        money = "" if probes.usd is None else f", {dollars(probes.usd.low)} to {dollars(probes.usd.high)}"
        time = f"{duration(probes.seconds.low)} to {duration(probes.seconds.high)}"
        lines.append(f"their time {time}{money}, as {probes.timed_by}")
    return lines + [f"not known  {why}" for why in probes.unknown]


def _range(values: Range) -> str:
    low, high = round(values.low), round(values.high)
    return str(low) if low == high else f"{low} to {high}"
