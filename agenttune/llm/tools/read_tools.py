"""Tools that read: each is the model of its arguments, and answers from a `RunReader`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from agenttune.errors import CommandError, NotSupported
from agenttune.llm.tools.metrics import run_curve, run_series, short, unit_of
from agenttune.llm.tools.offered import UNLISTED_FIELDS
from agenttune.llm.tools.tool_results import encode
from agenttune.llm.tools.tool_schemas import MAX_TEXT, plain_schema
from agenttune.protocol.command_schemas import ToolShape
from agenttune.protocol.commands import BY_KIND, Bool, Int, ReadModel, Text
from agenttune.protocol.reads import (
    MAX_STEP,
    BranchesQuery,
    Checkpoint,
    CheckpointsQuery,
    DatasetQuery,
    HistoryQuery,
    KnobsQuery,
    ModelQuery,
    ObservationQuery,
    RunReader,
)
from agenttune.protocol.run_info import ModuleInfo
from agenttune.protocol.summary import Intervention

MAX_POINTS = 200
READ = "read"
"""The one tool that a language model reads with; other clients have a tool for each."""
READ_WORDS = {
    "norms": "model: measure norms of weights and gradients",
    "layer": "model: only this one",
}
Step = Annotated[Int, Field(ge=0, le=MAX_STEP)]
Few = Annotated[Int, Field(ge=1, le=50)]


class Read(BaseModel):
    """Arguments of a read tool. Unknown fields are refused.

    Attributes:
        tool: Its name, for clients that are offered a tool for each read.
        word: What is read, for `read` of language models and `show` of the command line.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    tool: ClassVar[str]
    word: ClassVar[str]

    def answer(self, reader: RunReader) -> str:
        """JSON of bounded size."""
        raise NotImplementedError

    @classmethod
    def shape(cls) -> ToolShape:
        parameters = {k: v for k, v in plain_schema(cls.model_json_schema()).items() if k != "description"}
        described = inspect.cleandoc(cls.__doc__ or "")
        return ToolShape(name=cls.tool, description=described, parameters=parameters, is_read_only=True)


class GetMetrics(Read):
    """Values of one metric over steps, downsampled to at most `max_points`; without `metric`, which metrics there are.

    A row is [last step of the bucket, mean, low, high]. Non-finite values are counted beside, not averaged.
    """

    tool = "get_metrics"
    word = "metrics"
    metric: Annotated[Text, Field(min_length=1, max_length=MAX_TEXT)] | None = Field(None, description="Its name.")
    first_step: Step = Field(0, description="From this step on.")
    last_step: Step | None = Field(None, description="Up to this step. Default: the newest.")
    max_points: Annotated[Int, Field(ge=1, le=MAX_POINTS)] = Field(50, description="At most so many rows.")

    def answer(self, reader: RunReader) -> str:
        if self.metric is None:
            found = [{**info.model_dump(exclude={"branch"}), "unit": unit_of(info.name)} for info in run_series(reader)]
            return encode({"metrics": found}, rows="metrics", keep_first=True)
        curve = run_curve(reader, self.metric, self.first_step, self.last_step, self.max_points)
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


class GetFindings(Read):
    """What the detectors saw, newest last: divergence, spikes, plateaus, non-finite values, overfitting."""

    tool = "get_findings"
    word = "findings"
    limit: Few = Field(10, description="At most so many, the newest.")

    def answer(self, reader: RunReader) -> str:
        seen = reader.read(ObservationQuery())
        found = [finding.model_dump(mode="json") for finding in seen.findings[-self.limit :]]
        return encode({"at_step": seen.step, "findings": found}, rows="findings")


class GetOptimizer(Read):
    """Every value that can be tuned: base (what the schedule scales) and effective, unit, bounds, and by what tool."""

    tool = "get_optimizer"
    word = "optimizer"

    def answer(self, reader: RunReader) -> str:
        knobs = [knob.model_dump(mode="json", exclude_none=True) for knob in reader.read(KnobsQuery()).knobs]
        return encode({"knobs": knobs}, rows="knobs", keep_first=True)


class GetModelTree(Read):
    """The model's layers: parameters, how many are trained, what can be done to each; with `norms`, measured now."""

    tool = "get_model_tree"
    word = "model"
    layer: Text = Field("", max_length=512, description="Only this layer and what is in it. Default: the whole model.")
    norms: Bool = Field(False, description="Also the norms of weights and last gradients; asks the trainer.")
    depth: Annotated[Int, Field(ge=0, le=8)] = Field(2, description="Levels below `layer` that are shown.")

    def answer(self, reader: RunReader) -> str:
        if self.norms and ReadModel.kind_name() not in reader.read(ObservationQuery()).capabilities:
            raise NotSupported("this trainer cannot measure norms; leave out `norms`", field="norms", allowed=[False])
        root = reader.read(ModelQuery(layer=self.layer, norms=self.norms)).model
        if root is None:
            return encode({"layers": [], "note": "the trainer has not told its layers"}, rows="layers")
        return encode({"layers": list(_layers(root, self.depth))}, rows="layers", keep_first=True)


class GetDataset(Read):
    """The training dataset: type, size, and the parameters that can be changed."""

    tool = "get_dataset"
    word = "dataset"

    def answer(self, reader: RunReader) -> str:
        dataset = reader.read(DatasetQuery()).dataset
        if dataset is None:
            return encode({"dataset": None, "note": "the trainer has not told its dataset"})
        return encode({"dataset": dataset.model_dump(mode="json", exclude={"kind"})})


class ListCheckpoints(Read):
    """Checkpoints that still exist, newest last, with the goal metric as last evaluated before each."""

    tool = "list_checkpoints"
    word = "checkpoints"
    limit: Few = Field(20, description="At most so many, the newest.")

    def answer(self, reader: RunReader) -> str:
        found = [_checkpoint(saved) for saved in reader.read(CheckpointsQuery()).checkpoints[-self.limit :]]
        return encode({"checkpoints": found}, rows="checkpoints")


class ListBranches(Read):
    """The run's branches: each restored checkpoint began one."""

    tool = "list_branches"
    word = "branches"

    def answer(self, reader: RunReader) -> str:
        found = [branch.model_dump(mode="json", exclude={"kind"}) for branch in reader.read(BranchesQuery()).branches]
        return encode({"branches": found, "current": reader.read(ObservationQuery()).branch}, rows="branches")


class GetHistory(Read):
    """What was tried in this run and what came of it: state, verdict, change, effect against the forecast."""

    tool = "get_history"
    word = "history"
    limit: Few = Field(10, description="At most so many, the newest.")

    def answer(self, reader: RunReader) -> str:
        reads = {kind for kind, command in BY_KIND.items() if command.is_read}
        rows = reader.read(HistoryQuery(limit=self.limit)).history
        tried = [row for row in rows if row.kind not in reads]
        return encode({"history": [_tried(row) for row in tried]}, rows="history")


READS: dict[str, type[Read]] = {
    read.tool: read
    for read in (
        GetMetrics,
        GetFindings,
        GetOptimizer,
        GetModelTree,
        GetDataset,
        ListCheckpoints,
        ListBranches,
        GetHistory,
    )
}


WHAT: dict[str, str] = {read.word: read.tool for read in READS.values()}
"""The reads by their short names."""


def read_shape() -> ToolShape:
    """All reads as one tool."""
    fields: dict[str, Any] = {"what": {"type": "string", "enum": list(WHAT)}}
    for what in WHAT:
        for name, part in READS[WHAT[what]].shape().parameters["properties"].items():
            if name not in UNLISTED_FIELDS:
                words = {"description": READ_WORDS[name]} if name in READ_WORDS else {}
                fields[name] = {k: v for k, v in part.items() if k == "type"} | words
    return ToolShape(
        name=READ,
        description="Look closer: metrics (without `metric`: which there are), model (its layers), history, ...",
        parameters={"type": "object", "properties": fields, "required": ["what"]},
        is_read_only=True,
    )


def read_of(given: Mapping[str, Any]) -> tuple[type[Read], dict[str, Any]]:
    """The read that a call of the one tool asks for, and its own arguments.

    Raises:
        CommandError: `what` is none of `WHAT`.
    """
    rest = {name: value for name, value in given.items() if name != "what" and value is not None}
    what = given.get("what")
    if what in WHAT:
        return READS[WHAT[what]], rest
    if what in READS:  # by the name that other clients know it by
        return READS[what], rest
    known = list(WHAT)
    raise CommandError(f"{READ}.what: one of {', '.join(known)} (got {what!r:.80})", field="what", allowed=known)


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
    unsaid = {name for name in ("problem", "is_before") if not getattr(saved, name)}
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
