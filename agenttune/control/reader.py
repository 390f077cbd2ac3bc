"""Reading one run: all that a policy's or a client's tools can see of it, wherever the run is."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from pydantic import ValidationError

from agenttune.errors import RunEnded, SystemFault, UserError
from agenttune.protocol.events import (
    BranchStarted,
    CheckpointSaved,
    Curve,
    DatasetRead,
    Event,
    KnobState,
    ModuleInfo,
    RunInfo,
    SeriesInfo,
)
from agenttune.protocol.model_calls import ModelCalled
from agenttune.protocol.observation import Observation, Segment
from agenttune.protocol.proposals import CommandRecord, Proposal, State, Verdict
from agenttune.protocol.summary import Intervention

SETTLING_KINDS = ("judged", "acked")
"""Events that can settle what becomes of a command."""


class Acks(Protocol):
    """What waiting for an ack needs of a control."""

    def events(
        self, run_id: str, since: int = 0, limit: int = 1000, wait_s: float = 0.0, kinds: Sequence[str] | None = None
    ) -> list[Event]: ...

    def command(self, run_id: str, command_id: str) -> CommandRecord: ...


class ReadableControl(Protocol):
    """What a `ControlReader` needs of a control."""

    def info(self, run_id: str) -> RunInfo: ...

    def observe(self, run_id: str) -> Observation: ...

    def series(self, run_id: str, branch: str = "main") -> list[SeriesInfo]: ...

    def curve(
        self,
        run_id: str,
        metric: str,
        branch: str = "main",
        first_step: int = 0,
        last_step: int | None = None,
        max_points: int = 1000,
    ) -> Curve: ...

    def knobs(self, run_id: str) -> list[KnobState]: ...

    def model(
        self, run_id: str, *, norms: bool = False, layer: str = "", wait_s: float = 10.0
    ) -> ModuleInfo | None: ...

    def dataset(self, run_id: str) -> DatasetRead | None: ...

    def checkpoints(self, run_id: str) -> list[Event]: ...

    def branches(self, run_id: str) -> list[BranchStarted]: ...

    def history(self, run_id: str, limit: int = 50) -> list[Intervention]: ...

    def model_calls(self, run_id: str) -> list[ModelCalled]: ...

    def dry_run(self, run_id: str, proposal: Proposal) -> Verdict: ...


class ControlReader:
    """A run of a control, read only. As safe to share between threads as the control is.

    Args:
        control: The control.
        run_id: The run.
        is_operators: Also show what is not for agents: checkpoints of before the run.
    """

    def __init__(self, control: ReadableControl, run_id: str, is_operators: bool = False) -> None:
        self._control = control
        self._run_id = run_id
        self._is_operators = is_operators

    def observation(self) -> Observation:
        return self._control.observe(self._run_id)

    def series(self) -> list[SeriesInfo]:
        """The metrics of the current branch and of the steps that it stands on, by name."""
        merged: dict[str, SeriesInfo] = {}
        for segment in self._lineage():
            for found in self._control.series(self._run_id, segment.branch):
                older = merged.get(found.name)
                merged[found.name] = found if older is None else _joined(older, found)
        return [merged[name] for name in sorted(merged)]

    def curve(self, metric: str, first_step: int = 0, last_step: int | None = None, max_points: int = 100) -> Curve:
        """A metric over the steps that the run stands on; a run that never went back has one branch."""
        segments = self._lineage()
        having = [s for s in segments if metric in {i.name for i in self._control.series(self._run_id, s.branch)}]
        share = max(1, max_points // max(1, len(having)))
        curves = [
            self._control.curve(self._run_id, metric, s.branch, first_step, until, share)
            for s in having or segments[-1:]  # where no branch has it, the newest one says which there are
            if (until := _earlier(s.last_step, last_step)) is None or until >= first_step
        ]
        return _chained(metric, segments[-1].branch, curves)

    def knobs(self) -> list[KnobState]:
        return self._control.knobs(self._run_id)

    def model(self, layer: str = "", norms: bool = False) -> ModuleInfo | None:
        return self._control.model(self._run_id, norms=norms, layer=layer)

    def dataset(self) -> DatasetRead | None:
        return self._control.dataset(self._run_id)

    def checkpoints(self) -> list[Event]:
        found = self._control.checkpoints(self._run_id)
        return [event for event in found if self._is_operators or not is_of_before(event)]

    def branches(self) -> list[BranchStarted]:
        return self._control.branches(self._run_id)

    def history(self, limit: int = 50) -> list[Intervention]:
        return self._control.history(self._run_id, limit)

    def model_calls(self) -> list[ModelCalled]:
        return self._control.model_calls(self._run_id)

    def dry_run(self, proposal: Proposal) -> Verdict:
        return self._control.dry_run(self._run_id, proposal)

    def _lineage(self) -> list[Segment]:
        return lineage_of(self._control.info(self._run_id).branch, self._control.branches(self._run_id))


def is_of_before(event: Event) -> bool:
    """Whether an event tells of a checkpoint that lay there when the run began; agents are never offered those."""
    return isinstance(event.body, CheckpointSaved) and event.body.is_before


def lineage_of(branch: str, branches: Sequence[BranchStarted]) -> list[Segment]:
    """The branches that one stands on, oldest first, each with the last step that counts."""
    started = {b.name: b for b in branches}
    found = [Segment(branch=branch)]
    until: int | None = None
    while (start := started.get(found[-1].branch)) is not None and start.parent is not None:
        until = _earlier(until, start.from_step)
        found.append(Segment(branch=start.parent, last_step=until))
    return found[::-1]


def _earlier(one: int | None, other: int | None) -> int | None:
    return min((s for s in (one, other) if s is not None), default=None)


def _joined(older: SeriesInfo, newer: SeriesInfo) -> SeriesInfo:
    extent = {"count": older.count + newer.count, "first_step": min(older.first_step, newer.first_step)}
    return newer.model_copy(update=extent)


def _chained(metric: str, branch: str, curves: Sequence[Curve]) -> Curve:
    return Curve(
        name=metric,
        branch=branch,
        bucket_points=max((c.bucket_points for c in curves), default=1),
        steps=[s for c in curves for s in c.steps],
        mean=[v for c in curves for v in c.mean],
        low=[v for c in curves for v in c.low],
        high=[v for c in curves for v in c.high],
        nonfinite=[n for c in curves for n in c.nonfinite],
    )


def settled(
    control: Acks,
    run_id: str,
    record: CommandRecord,
    wait_s: float,
    monotonic: Callable[[], float] = time.monotonic,
) -> CommandRecord:
    """A command once it has its ack or needs none, or as it stands when `wait_s` is over."""
    deadline, since = monotonic() + wait_s, record.submitted_seq
    while record.ack is None and not record.is_final and (left_s := deadline - monotonic()) > 0:
        found = control.events(run_id, since, wait_s=left_s, kinds=SETTLING_KINDS)
        since = found[-1].seq if found else since
        record = control.command(run_id, record.command_id)
    return record


def find_layer(root: ModuleInfo, name: str) -> ModuleInfo:
    """A layer by its dotted path.

    Raises:
        UserError: There is none; lists what is in the deepest layer of that path.
    """
    here, path = root, ""
    for part in name.split(".") if name else ():
        path = f"{path}.{part}" if path else part
        inside = {child.name: child for child in here.children}
        if path not in inside:
            message = f"no layer {name!r:.200}; in {here.name or 'the model'} there are: {', '.join(inside) or 'none'}"
            raise UserError(message, field="layer", allowed=list(inside))
        here = inside[path]
    return here


def measured_model(record: CommandRecord, layer: str, wait_s: float) -> ModuleInfo:
    """What the trainer answered to `read_model`.

    Raises:
        UserError: It refused, or the run has ended.
        SystemFault: It has not answered yet.
    """
    ack = record.ack
    if ack is None and record.verdict is not None and record.is_final:
        raise UserError(record.verdict.reason, field="layer")
    if ack is None:
        raise SystemFault(f"the trainer did not measure within {wait_s:g} s; ask with a longer wait_s")
    if record.state == State.EXPIRED:
        raise RunEnded(ack.message)
    if ack.outcome != "applied":
        raise UserError(ack.message, field="layer" if layer else None)
    try:
        return ModuleInfo.model_validate(ack.result)
    except ValidationError as error:
        raise SystemFault(f"the trainer's answer to read_model is no layer: {error.errors()[0]['msg']}") from None
