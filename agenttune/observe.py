"""From a run's log to what a policy sees of it."""

from __future__ import annotations

from collections.abc import Sequence

from agenttune.events import Evaluated, Found, KnobState, RunInfo, StoredPoint
from agenttune.observation import HISTORY, RECENT_POINTS, THINNED_POINTS, Evaluation, Observation, SeriesView
from agenttune.proposals import TAKEN
from agenttune.store import RunLog

THINNED = frozenset({"step_loss", "loss", "step_grad_norm", "grad_norm", "lr"})
"""Series whose whole history a policy gets, thinned; the others are given for the newest steps only."""


def live_knobs(log: RunLog, info: RunInfo) -> list[KnobState]:
    """The knobs as last read, with the learning rates of the newest step (a schedule moves them every step)."""
    newest = log.recent_points(1, branch=info.branch)
    if not newest:
        return info.knobs
    values = newest[0].values
    rates = {"effective": values["lr"], "base": values.get("base_lr")} if "lr" in values else {}
    return [knob.model_copy(update=rates) if knob.name == "lr" else knob for knob in info.knobs]


def observe(log: RunLog, info: RunInfo, now_s: float, max_commands: int | None) -> Observation:
    """Fold a run's log into what a policy sees.

    Args:
        log: The run's log.
        info: The run as it stands.
        now_s: Unix time.
        max_commands: The budget of agent commands; None for no limit.
    """
    recent = log.recent_points(RECENT_POINTS, ("step", "log"), info.branch)
    found = log.events(kinds=["found"], limit=HISTORY, newest=True)
    evaluated = log.events(kinds=["evaluated"], limit=HISTORY, newest=True)
    commands = log.commands(limit=HISTORY, newest=True)
    used = log.count_commands(*TAKEN, principal="agent")
    steps = [p for p in recent if p.source == "step"] or recent
    return Observation(
        run_id=info.run_id,
        status=info.status,
        step=info.step,
        max_steps=info.max_steps,
        branch=info.branch,
        at_s=now_s,
        last_step_at_s=steps[-1].at_s if steps else None,
        goal_metric=info.goal_metric,
        goal_direction=info.goal_direction,
        knobs=live_knobs(log, info),
        series=_series_views(log, info, recent),
        evaluations=[
            Evaluation(step=e.step or 0, metrics=e.body.metrics) for e in evaluated if isinstance(e.body, Evaluated)
        ],
        findings=[e.body.finding for e in found if isinstance(e.body, Found)],
        commands=commands,
        capabilities=info.capabilities,
        commands_left=None if max_commands is None else max(0, max_commands - used),
        last_seq=log.last_seq(),
    )


def _series_views(log: RunLog, info: RunInfo, recent: Sequence[StoredPoint]) -> dict[str, SeriesView]:
    raw: dict[str, tuple[list[int], list[float]]] = {}
    for point in recent:
        for name, value in point.values.items():
            steps, values = raw.setdefault(name, ([], []))
            steps.append(point.step)
            values.append(value)
    views = {}
    for name, (steps, values) in raw.items():
        long = log.curve(name, info.branch, max_points=THINNED_POINTS) if name in THINNED else None
        views[name] = SeriesView(
            name=name,
            steps=steps,
            values=values,
            thinned_steps=long.steps if long else [],
            thinned_values=long.mean if long else [],
        )
    return views
