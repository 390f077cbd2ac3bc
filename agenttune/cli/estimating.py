"""What a run will cost, before it starts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agenttune.cli.app import ConfigPath, Json, RunsDir, app

if TYPE_CHECKING:
    from agenttune.estimating import Estimate, ModelEstimate, ProbeEstimate, Range


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
    from agenttune.estimating import estimate as estimate_run
    from agenttune.launch import make_plan

    plan = make_plan(config, runs_dir)
    found = estimate_run(plan.config, plan.folder, plan.runs_dir, steps)
    if json_:
        typer.echo(found.model_dump_json(indent=2))
        return
    for line in _lines(found):
        typer.echo(line)


def _lines(found: Estimate) -> list[str]:
    lines = [f"policy     {found.policy}", f"steps      {found.steps} ({found.steps_from})"]
    if not found.models:
        lines.append("calls      0: it costs nothing" if found.probes is None else "calls      0")
    for model in found.models:
        lines += _model_lines(model)
    for cap in found.caps:
        quiet = "not in a quiet one" if cap.at_step_quiet is None else f"step {cap.at_step_quiet} of a quiet one"
        lines.append(
            f"cap        {cap.cap} {cap.limit:g} is reached about step {cap.at_step_busy} of a busy run, {quiet}; "
            "from there the rules go on alone"
        )
    if found.probes is not None:
        lines += _probe_lines(found.probes, found.steps)
    return lines + [f"note       {note}" for note in found.notes]


def _model_lines(model: ModelEstimate) -> list[str]:
    from agenttune.terminal.costs import dollars, tokens

    source = f"from {model.recorded_calls} recorded calls" if model.recorded_calls else "from rendered prompts"
    money = f"unknown price of {model.model}"
    if model.usd is not None:
        money = f"{dollars(model.usd.low)} to {dollars(model.usd.high)}"
    return [
        f"model      {model.model} {model.role} in {model.policy}: {_range(model.decisions)} decisions, "
        f"{_range(model.calls)} calls",
        f"tokens     {tokens(model.input_tokens.low)} to {tokens(model.input_tokens.high)} in, "
        f"{tokens(model.output_tokens.low)} to {tokens(model.output_tokens.high)} out, {source}",
        f"money      {money}",
    ]


def _probe_lines(probes: ProbeEstimate, steps: int) -> list[str]:
    from agenttune.terminal.costs import dollars
    from agenttune.terminal.text import duration

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
