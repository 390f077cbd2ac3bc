"""What a policy is told of a run beside its curves: what it may ask for, where it can go back to, what it said last."""

from __future__ import annotations

from agenttune.config import BudgetSettings
from agenttune.gate import Gate, not_offered, probe_steps_left
from agenttune.protocol.events import (
    CheckpointDeleted,
    CheckpointSaved,
    DatasetRead,
    Decided,
    Event,
    ModelRead,
)
from agenttune.protocol.observation import CheckpointView, Observation, Resolution
from agenttune.protocol.run_info import RunInfo
from agenttune.store.journal.saved_states import MOST_CHECKPOINTS, existing_checkpoints
from agenttune.store.run_log import RunLog

CHECKPOINTS = 8
"""Newest ones that a policy is told of (guess); `list_checkpoints` has the rest."""
CHECKPOINT_EVENTS = 200
"""Newest events that are looked through: what was deleted was deleted after it was saved."""
OLDEST = 20
"""Oldest ones that are looked through for the state of before the first step."""
REASON_CHARACTERS = 2000
DECISIONS = 5
"""Newest ones that are looked through."""
UNSENT = ("not asked for", "refused")
"""How the loop's words of a decision begin that say what did not come of it; a policy's own may be like them."""


def with_run_context(observation: Observation, log: RunLog, info: RunInfo, gate: Gate) -> Observation:
    """An observation with what the log and the gate say of the commands that can be asked for."""
    dataset = _newest(log, "dataset_read")
    # The tree of a large model takes milliseconds to read, and only matters where layers are limited.
    layers = _newest(log, "model_read") if gate.settings.allowed_layers else None
    return observation.model_copy(
        update={
            "not_offered": not_offered(
                gate.settings,
                info,
                dataset.body if dataset is not None and isinstance(dataset.body, DatasetRead) else None,
                layers.body.model if layers is not None and isinstance(layers.body, ModelRead) else None,
            ),
            "probe_steps_left": probe_steps_left(info, gate.budgets, log.extra_steps()),
            "checkpoints": _checkpoints(log),
            "returns_left": _returns_left(log, gate.budgets),
            "last_decision": _last_decision(log),
        }
    )


def _newest(log: RunLog, kind: str) -> Event | None:
    found = log.events(kinds=[kind], limit=1, newest=True)
    return found[0] if found else None


def _returns_left(log: RunLog, budgets: BudgetSettings) -> int | None:
    return None if budgets.max_returns is None else max(0, budgets.max_returns - log.count_returns())


def _checkpoints(log: RunLog) -> list[CheckpointView]:
    """Somebody's own newest ones, and all that the run keeps by itself."""
    events = existing_checkpoints(log, CHECKPOINT_EVENTS)
    views = [view for event in events if (view := _view(event)) is not None]
    if len(events) >= 1 and not any(view.kept_as == "start" for view in views):
        views = [*_kept_start(log), *views]
    shown = {view.checkpoint_id for view in [view for view in views if not view.kept_as][-CHECKPOINTS:]}
    return [view for view in views if view.kept_as or view.checkpoint_id in shown]


def _kept_start(log: RunLog) -> list[CheckpointView]:
    """The state of before the first step, whose event may be far back."""
    oldest = log.events(kinds=["checkpoint_saved"], limit=OLDEST)
    views = [view for event in oldest if (view := _view(event)) is not None and view.kept_as == "start"]
    gone = log.events(kinds=["checkpoint_deleted"], limit=MOST_CHECKPOINTS) if views else []
    ids = {event.body.checkpoint_id for event in gone if isinstance(event.body, CheckpointDeleted)}
    return [view for view in views if view.checkpoint_id not in ids][-1:]


def _view(event: Event) -> CheckpointView | None:
    body = event.body
    if not isinstance(body, CheckpointSaved) or body.is_before:  # of another run, and not for agents
        return None
    return CheckpointView(
        checkpoint_id=body.checkpoint_id,
        step=event.step or 0,
        branch=event.branch,
        tag=body.tag,
        metric=body.metric,
        keep_in=body.keep_in,
        kept_as=body.kept_as,
    )


def _last_decision(log: RunLog) -> Resolution | None:
    """The newest of which something was not submitted: what was, is among the commands."""
    events = log.events(kinds=["decided"], limit=DECISIONS, newest=True)
    told = [e for e in events if isinstance(e.body, Decided) and any(word in e.body.reason for word in UNSENT)]
    if not told:
        return None
    event = told[-1]
    body = event.body
    assert isinstance(body, Decided)  # narrowed above
    step = event.step if body.based_on_step is None else body.based_on_step
    return Resolution(policy=body.policy, step=step, reason=body.reason[:REASON_CHARACTERS])
