"""Tools that read: derived from the reads in `protocol/reads.py`, and answered from a `RunReader`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import BaseModel, ConfigDict, create_model

from agenttune.errors import CommandError, NotSupported
from agenttune.llm.tools.offered import UNLISTED_FIELDS
from agenttune.llm.tools.run_metrics import run_curve, run_series, short, unit_of
from agenttune.llm.tools.tool_results import encode
from agenttune.llm.tools.tool_schemas import plain_schema
from agenttune.protocol.command_schemas import ToolShape
from agenttune.protocol.commands import BY_KIND, ReadModel
from agenttune.protocol.observation import HISTORY
from agenttune.protocol.reads import (
    QUERIES,
    AsTool,
    BranchesQuery,
    Checkpoint,
    CheckpointsQuery,
    CurveQuery,
    DatasetQuery,
    FindingsQuery,
    HistoryQuery,
    ModelQuery,
    ObservationQuery,
    RunQuery,
    RunReader,
)
from agenttune.protocol.run_info import ModuleInfo
from agenttune.protocol.summary import Intervention

READ, LOOK = "read", "look"
"""The one tool that a language model reads with, by its old name and its own; other clients have a tool for each."""
STRICT = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True)
class ReadTool:
    """A read as a tool: all of it derives from the read's class.

    Attributes:
        declared: What that class says of it.
    """

    query: type[RunQuery[Any]]
    declared: AsTool

    @property
    def arguments(self) -> type[BaseModel]:
        """The model of its arguments. Unknown fields are refused."""
        return _arguments(self.query)

    def shape(self) -> ToolShape:
        parameters = {k: v for k, v in plain_schema(self.arguments.model_json_schema()).items() if k != "description"}
        described = self.declared.description or inspect.cleandoc(self.query.__doc__ or "").split("\n\n")[0]
        return ToolShape(name=self.declared.name, description=described, parameters=parameters, is_read_only=True)

    def answer(self, reader: RunReader, asked: BaseModel) -> str:
        """JSON of bounded size, to arguments of `arguments`."""
        if self.query in VIEWS:
            return VIEWS[self.query](reader, **dict(asked))
        told = reader.read(self.query.model_validate(dict(asked))).model_dump(mode="json", exclude_none=True)
        rows = next((name for name, part in told.items() if isinstance(part, list)), "")
        return encode(told, rows, self.declared.keep_first)


@cache
def _arguments(query: type[RunQuery[Any]]) -> type[BaseModel]:
    declared = query.tool.arguments if query.tool is not None else None
    if declared is None:
        return query
    return create_model(query.__name__, __config__=STRICT, **dict[str, Any](declared))


def offered_reads() -> dict[str, ReadTool]:
    """The reads that are tools, by the tool's name."""
    return {query.tool.name: ReadTool(query, query.tool) for query in QUERIES if query.tool is not None}


def reads_by_word() -> dict[str, ReadTool]:
    """The same by their short names."""
    return {read.declared.word: read for read in offered_reads().values()}


def read_shape() -> ToolShape:
    """All reads as one tool."""
    reads = reads_by_word()
    fields: dict[str, Any] = {"what": {"type": "string", "enum": list(reads)}}
    for read in reads.values():
        for name, part in read.shape().parameters["properties"].items():
            if name not in UNLISTED_FIELDS:
                brief = {"description": text} if (text := read.declared.brief.get(name)) else {}
                fields[name] = {key: value for key, value in part.items() if key == "type"} | brief
    return ToolShape(
        name=LOOK,
        description="Look closer: metrics (without `metric`: which there are), model (its layers), history, ...",
        parameters={"type": "object", "properties": fields, "required": ["what"]},
        is_read_only=True,
    )


def read_of(given: Mapping[str, Any]) -> tuple[ReadTool, dict[str, Any]]:
    """The read that a call of the one tool asks for, and its own arguments.

    Raises:
        CommandError: There is no such read.
    """
    rest = {name: value for name, value in given.items() if name != "what" and value is not None}
    what, by_word = given.get("what"), reads_by_word()
    known = {**offered_reads(), **by_word}  # also by the names that other clients know them by
    if isinstance(what, str) and what in known:
        return known[what], rest
    words = list(by_word)
    raise CommandError(f"{LOOK}.what: one of {', '.join(words)} (got {what!r:.80})", field="what", allowed=words)


def _metrics(reader: RunReader, metric: str | None, first_step: int, last_step: int | None, max_points: int) -> str:
    if metric is None:
        found = [{**info.model_dump(exclude={"branch"}), "unit": unit_of(info.name)} for info in run_series(reader)]
        return encode({"metrics": found}, rows="metrics", keep_first=True)
    curve = run_curve(reader, metric, first_step, last_step, max_points)
    values = zip(curve.steps, curve.mean, curve.low, curve.high, strict=True)
    told = {
        "metric": curve.name,
        "unit": unit_of(curve.name),
        "points_per_row": curve.bucket_points,
        "non_finite_points": sum(curve.nonfinite),
        "non_finite_up_to_steps": [s for s, n in zip(curve.steps, curve.nonfinite, strict=True) if n][:20],
        "columns": ["step", "mean", "low", "high"],
        "rows": [[step, *map(short, rest)] for step, *rest in values],
    }
    return encode(told, rows="rows")


def _findings(reader: RunReader, limit: int) -> str:
    seen = reader.read(ObservationQuery())
    found = seen.findings[-limit:]
    judged = _judgements(reader) if found else {}
    rows = [{**finding.model_dump(mode="json"), **judged.get(finding.model_dump_json(), {})} for finding in found]
    return encode({"at_step": seen.step, "findings": rows}, rows="findings")


def _judgements(reader: RunReader) -> dict[str, dict[str, Any]]:
    """What people said of findings, by the finding as JSON."""
    return {
        read.finding.model_dump_json(): {
            "said_to_be": "right" if read.judged.right else "wrong",
            "said": read.judged.text,
        }
        for read in reader.read(FindingsQuery(limit=HISTORY)).findings
        if read.judged is not None
    }


def _model(reader: RunReader, layer: str, norms: bool, depth: int) -> str:
    if norms and ReadModel.kind_name() not in reader.read(ObservationQuery()).capabilities:
        raise NotSupported("this trainer cannot measure norms; leave out `norms`", field="norms", allowed=[False])
    root = reader.read(ModelQuery(layer=layer, norms=norms)).model
    if root is None:
        return encode({"layers": [], "note": "the trainer has not told its layers"}, rows="layers")
    return encode({"layers": list(_layers(root, depth))}, rows="layers", keep_first=True)


def _dataset(reader: RunReader) -> str:
    dataset = reader.read(DatasetQuery()).dataset
    if dataset is None:
        return encode({"dataset": None, "note": "the trainer has not told its dataset"})
    return encode({"dataset": dataset.model_dump(mode="json", exclude={"kind"})})


def _checkpoints(reader: RunReader, limit: int) -> str:
    found = [_checkpoint(saved) for saved in reader.read(CheckpointsQuery()).checkpoints[-limit:]]
    return encode({"checkpoints": found}, rows="checkpoints")


def _branches(reader: RunReader) -> str:
    found = [branch.model_dump(mode="json", exclude={"kind"}) for branch in reader.read(BranchesQuery()).branches]
    return encode({"branches": found, "current": reader.read(ObservationQuery()).branch}, rows="branches")


def _history(reader: RunReader, limit: int) -> str:
    reads = {kind for kind, command in BY_KIND.items() if command.is_read}
    rows = reader.read(HistoryQuery(limit=limit)).history
    return encode({"history": [_tried(row) for row in rows if row.kind not in reads]}, rows="history")


def _layers(root: ModuleInfo, depth: int) -> Iterator[dict[str, Any]]:
    """Layers level by level, so that what is left out is the deepest."""
    level = [root]
    for below in range(depth + 1):
        for layer in level:
            row = layer.model_dump(mode="json", exclude={"children"}, exclude_none=True)
            if below == depth and layer.children:
                row["children"] = f"{len(layer.children)} not shown"
            yield row
        level = [child for layer in level for child in layer.children]


def _checkpoint(saved: Checkpoint) -> dict[str, Any]:
    unsaid = {name for name in ("problem", "is_before", "kept_as") if not getattr(saved, name)}
    left_out = {"path", "command_id", "at_s", "seq", "step", "branch"} | unsaid
    told = saved.model_dump(mode="json", exclude=left_out, exclude_none=True)
    return {"step": saved.step, "branch": saved.branch, **told}


def _tried(row: Intervention) -> dict[str, Any]:
    return {
        "command": row.kind,
        "arguments": row.arguments,
        "by": f"{row.principal} {row.author}",
        "reason": row.rationale,
        "state": row.state.value,
        "decided_by": row.decided_by,
        "outcome": row.summary,
        **({"message": row.message} if row.message and row.message not in row.summary else {}),
        **({"result": row.result} if row.result else {}),
        "proposed_at_step": row.proposed_at_step,
        "applied_at_step": row.applied_at_step,
        "effect": row.effect.words if row.effect else None,
    }


VIEWS: dict[type[RunQuery[Any]], Callable[..., str]] = {
    CurveQuery: _metrics,
    ObservationQuery: _findings,
    ModelQuery: _model,
    DatasetQuery: _dataset,
    CheckpointsQuery: _checkpoints,
    BranchesQuery: _branches,
    HistoryQuery: _history,
}
"""Reads of which a tool tells other than the answer as it stands, each with the arguments that it declares."""
