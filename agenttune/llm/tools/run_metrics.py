"""A run's metrics for tools: over all branches of its lineage, with their units."""

from __future__ import annotations

from collections.abc import Sequence

from agenttune.protocol.lineage import Lineage, earlier
from agenttune.protocol.metrics import Curve, SeriesInfo
from agenttune.protocol.reads import BranchesQuery, CurveQuery, InfoQuery, RunReader, SeriesQuery

UNITS = {
    "lr": "effective learning rate of the first parameter group",
    "base_lr": "learning rate that the schedule scales",
    "step_loss": "loss of one optimizer step, in nats for cross entropy",
    "loss": "mean loss since the last log row, in nats for cross entropy",
    "eval_loss": "loss on the evaluation data, in nats for cross entropy",
    "step_grad_norm": "norm of the gradient before clipping",
    "grad_norm": "norm of the gradient before clipping",
    "path_straightness": "cosine between the two halves of the weights' way since the newest change",
    "update_ratio": "size of one update over that of the weights, median over the layers",
}
"""Units of the metrics that the trainer measures; of others the suffix may tell."""
SUFFIXES = {"_per_s": "per second", "_per_second": "per second", "_s": "seconds", "_bytes": "bytes", "_frac": "share"}
UNKNOWN_UNIT = "not stated"


def run_series(reader: RunReader) -> list[SeriesInfo]:
    """The metrics of the current branch and its lineage, by name."""
    merged: dict[str, SeriesInfo] = {}
    for segment in _lineage(reader).segments:
        for found in reader.read(SeriesQuery(branch=segment.branch)).series:
            older = merged.get(found.name)
            merged[found.name] = found if older is None else _joined(older, found)
    return [merged[name] for name in sorted(merged)]


def run_curve(
    reader: RunReader, metric: str, first_step: int = 0, last_step: int | None = None, max_points: int = 100
) -> Curve:
    """A metric over the steps that the run stands on; a run that never restored a checkpoint has one branch.

    Raises:
        UserError: There is no metric of that name.
    """
    segments = _lineage(reader).segments
    having = [s for s in segments if metric in {i.name for i in reader.read(SeriesQuery(branch=s.branch)).series}]
    share = max(1, max_points // max(1, len(having)))
    curves = [
        reader.read(CurveQuery(name=metric, branch=s.branch, first_step=first_step, last_step=until, max_points=share))
        for s in having or segments[-1:]  # where no branch has it, the newest one says which there are
        if (until := earlier(s.last_step, last_step)) is None or until >= first_step
    ]
    return _chained(metric, segments[-1].branch, curves)


def _lineage(reader: RunReader) -> Lineage:
    return Lineage.of(reader.read(InfoQuery()).branch, reader.read(BranchesQuery()).branches)


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


def unit_of(metric: str) -> str:
    """A metric's unit, where it is known."""
    suffix = next((words for end, words in SUFFIXES.items() if metric.endswith(end)), UNKNOWN_UNIT)
    return UNITS.get(metric, suffix)


def short(value: float) -> float:
    """Six significant digits: beyond what a loss means, and a third of the characters."""
    return float(f"{value:.6g}")
