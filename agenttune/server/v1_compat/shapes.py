"""What the log knows, in the shapes of v1's API: field for field, in its order.

A number that is not finite is left out: v1 wrote a bare NaN, which no browser reads, and its clients take null
for a loss of 0.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from agenttune.control import LocalControl
from agenttune.protocol.events import BranchStarted, DatasetRead, Evaluated, Event, Logged, ModelRead, RunStarted
from agenttune.protocol.reads import Checkpoint, CheckpointsQuery
from agenttune.protocol.run_info import KnobState, ModuleInfo, RunInfo

Json = dict[str, Any]
LOG_KINDS = ("logged", "evaluated")
"""Events that v1 calls log points."""
PAGE = 10_000
MAIN = "main"
STATUSES = {"starting": "init"}
"""v1 knew `init`, `running` and `paused`; how a run ended is said in our own words."""
SIGNATURES = {"requires_grad_": [{"name": "requires_grad", "type": "bool", "value": "True"}]}
BASIC = frozenset({"float", "int", "bool", "str"})
NO_DATASET: Json = {"initialization_parameters": {}, "interactive_parameters": {}}


def to_json(content: object) -> str:
    """Compact JSON without the numbers that are not finite."""
    return json.dumps(plain(content), separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def plain(value: Any) -> Any:
    """The same without every number that is not finite, and its key; in a list, where places count, it is None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: plain(inner) for name, inner in value.items() if not _is_unsayable(inner)}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    return value


def _is_unsayable(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def run_info(control: LocalControl, info: RunInfo) -> Json:
    """`/api/get_info/`. The start is that of the current branch, as v1 renewed it at every load."""
    branch = control.newest(info.run_id, "branch_started")
    started_s = info.started_at_s or info.created_at_s
    if branch is not None and isinstance(branch.body, BranchStarted) and branch.body.parent is not None:
        started_s = branch.at_s
    return {"start_time": started_s, "status": STATUSES.get(info.status, info.status), "run_name": info.name}


def optimizer_knobs(info: RunInfo) -> list[KnobState]:
    """What `update_optimizer` can change, in the order of the optimizer's own parameter groups."""
    return [knob for knob in info.knobs if knob.command == "update_optimizer"]


def optimizer_info(control: LocalControl, info: RunInfo) -> Json:
    """`/api/get_optimizer_info/`: values as read from the optimizer; `lr` is the base rate, as v1's was."""
    started = control.newest(info.run_id, "run_started")
    details = started.body.details if started is not None and isinstance(started.body, RunStarted) else {}
    name = details.get("optimizer_type") or details.get("optimizer") or ""
    return {"optimizer_name": name, **{knob.name: knob_value(knob) for knob in optimizer_knobs(info)}}


def knob_value(knob: KnobState) -> Any:
    """What v1 calls the value: of a rate that a schedule scales, the base."""
    return knob.base if knob.base is not None else knob.effective


def dataset_info(control: LocalControl, run_id: str) -> Json:
    """`/api/get_dataset_info/`."""
    event = control.newest(run_id, "dataset_read")
    body = event.body if event is not None else None
    if not isinstance(body, DatasetRead) or not body.interactive:
        return NO_DATASET
    return {"initialization_parameters": body.initialization, "interactive_parameters": body.runtime}


def model_info(control: LocalControl, run_id: str) -> Json:
    """`/api/get_model_info/`: the tree as last read. The root is the model; v1 took its only layer, if so."""
    event = control.newest(run_id, "model_read")
    if event is None or not isinstance(event.body, ModelRead):
        return {}
    root = event.body.model
    return _node(root.children[0]) if len(root.children) == 1 else {**_node(root), "name": "Model"}


def _node(module: ModuleInfo) -> Json:
    return {
        "name": module.name,
        "children": [_node(child) for child in module.children],
        "module_type": module.type,
        "operators": [{"name": name, "signature": SIGNATURES.get(name, [])} for name in module.operations],
        "hyperparameters": [
            {"name": p.name, "value": p.value, "type": p.type} for p in module.hyperparameters if p.type in BASIC
        ],
    }


def checkpoint(saved: Checkpoint) -> Json:
    """One checkpoint; its directory is empty for a snapshot in memory."""
    return {
        "checkpoint_dir": saved.path,
        "global_step": saved.step or 0,
        "time": saved.at_s,
        "uuid": saved.checkpoint_id,
        "branch_id": saved.branch,
    }


def checkpoints(control: LocalControl, run_id: str) -> list[Json]:
    """`/api/get_checkpoints/`: those that exist, by step; v1 knows of none that a run keeps by itself."""
    found = [saved for saved in control.read(run_id, CheckpointsQuery()).checkpoints if not saved.kept_as]
    return sorted(map(checkpoint, found), key=lambda saved: int(saved["global_step"]))


def train_state(control: LocalControl, info: RunInfo) -> Json:
    """What a `train_state_update` carries."""
    about = run_info(control, info)
    return {
        "model_infos": model_info(control, info.run_id),
        "optimizer_states": optimizer_info(control, info),
        "checkpoints": checkpoints(control, info.run_id),
        "command_history": [],
        "start_time": about["start_time"],
        "run_name": about["run_name"],
    }


def log_metrics(event: Event) -> Json:
    """The metrics of a row of the trainer's log or of an evaluation, with the step."""
    if not isinstance(event.body, (Logged, Evaluated)):
        raise TypeError(f"event {event.seq} carries no metrics")
    return {**event.body.metrics, "global_step": event.step or 0}


def branch_info(name: str, at_s: float, parent: str | None) -> Json:
    return {"id": name, "wall_time": at_s, "parent": parent}


def logs(control: LocalControl, info: RunInfo) -> Json:
    """`/api/get_logs/`: every log point of the run, by branch."""
    branches = {MAIN: branch_info(MAIN, info.started_at_s or info.created_at_s, None)}
    tree: dict[str, list[str]] = {MAIN: []}
    for event in control.events(info.run_id, limit=PAGE, kinds=["branch_started"]):
        if isinstance(event.body, BranchStarted) and event.body.name != MAIN:
            started = event.body
            branches[started.name] = branch_info(started.name, event.at_s, started.parent)
            tree.setdefault(started.parent or MAIN, []).append(started.name)
    points: dict[str, list[Json]] = {name: [] for name in branches}
    count = 0
    for count, event in enumerate(log_events(control, info.run_id), 1):
        point = {"local_step": count, "wall_time": event.at_s, "metrics": log_metrics(event)}
        points.setdefault(event.branch, []).append(point)
    return {
        "local_step": count,
        "branched_logs": points,
        "current_branch": list(branches)[-1],
        "branch_info": branches,
        "branch_tree": tree,
    }


def log_events(control: LocalControl, run_id: str, since: int = 0) -> Iterable[Event]:
    """All log points after a cursor, page by page."""
    while page := control.events(run_id, since, PAGE, kinds=LOG_KINDS):
        yield from page
        since = page[-1].seq
