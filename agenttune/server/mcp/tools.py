"""The tools over all runs of a control, for MCP clients: what they read, and what they ask for through the gate."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from agenttune.control import Control
from agenttune.control.control import newest_live, run_named
from agenttune.control.reader import ControlReader, settled
from agenttune.errors import AgenttuneError, CommandError
from agenttune.llm.tools import (
    Toolbox,
    ToolOutcome,
    ToolWait,
    encode,
    error_text,
    offered_reads,
    record_text,
    write_kinds,
    write_shape,
)
from agenttune.llm.tools.tool_schemas import MAX_TEXT
from agenttune.llm.tools.toolbox import wait_shape
from agenttune.protocol.command_schemas import ToolShape
from agenttune.protocol.commands import BY_KIND, Risk
from agenttune.protocol.observation import Observation
from agenttune.protocol.proposals import Author, Proposal, State
from agenttune.protocol.run_info import RunInfo

ACK_WAIT_S = 20.0
"""Longest wait for the trainer's answer: clients commonly give up a call after 60 s."""
WAIT_S = 40.0
"""Longest that the tool `wait` holds a call, for the same reason."""
POLL_S = 0.5
"""Between two looks at the step, which no event tells."""
MOST_RUNS = 50
WAKING = {"until_evaluation": "evaluated", "until_finding": "found"}
REFUSED = frozenset({State.REJECTED, State.FAILED, State.EXPIRED, State.SUPERSEDED})
RUN = {
    "type": "string",
    "maxLength": 200,
    "description": "A run's id, or the beginning of exactly one. Default: the newest live run.",
}
LIST_RUNS = ToolShape(
    name="list_runs",
    description="Training runs, newest first: id, status, step, goal.",
    parameters={"type": "object", "properties": {}, "additionalProperties": False},
    is_read_only=True,
)
GET_RUN = ToolShape(
    name="get_run",
    description="How a run stands: status, step, goal, newest values, findings, and what is left of the budget.",
    parameters={"type": "object", "properties": {"run": RUN}, "additionalProperties": False},
    is_read_only=True,
)


@dataclass(frozen=True)
class ToolAnswer:
    text: str
    is_error: bool = False


class RunTools:
    """Every tool over every run.

    Args:
        control: The runs.
        run: The run that is meant where a call names none; empty for the newest live one.
        is_read_only: No tool changes anything.
        ack_wait_s: Longest wait for the ack of a command.
        wait_s: Longest that `wait` holds a call.
        sees: Which runs there are for this client, by id; None: all.
        via: The token that the client came with, for the log.
    """

    def __init__(
        self,
        control: Control,
        run: str = "",
        is_read_only: bool = False,
        ack_wait_s: float = ACK_WAIT_S,
        wait_s: float = WAIT_S,
        sees: Callable[[str], bool] | None = None,
        via: str = "",
    ) -> None:
        self._control = control
        self._run = run
        self._is_read_only = is_read_only
        self._ack_wait_s = ack_wait_s
        self._wait_s = wait_s
        self._sees = sees
        self._via = via

    def limited(self, is_read_only: bool, sees: Callable[[str], bool], via: str) -> RunTools:
        """The same tools for a client that may do no more than this."""
        read_only = self._is_read_only or is_read_only
        return RunTools(self._control, self._run, read_only, self._ack_wait_s, self._wait_s, sees, via)

    def _runs(self) -> list[RunInfo]:
        return [info for info in self._control.runs() if self._sees is None or self._sees(info.run_id)]

    def shapes(self) -> list[ToolShape]:
        """All tools there can be; one that a run's trainer does not have says so when it is called."""
        writes = [] if self._is_read_only else [write_shape(kind) for kind in write_kinds()]
        tools = [*writes, *(read.shape() for read in offered_reads().values()), wait_shape()]
        return [LIST_RUNS, GET_RUN, *map(_with_run, tools)]

    def call(self, name: str, arguments: Mapping[str, Any], client: str) -> ToolAnswer:
        """Carry out a call; what is wrong with it comes back as an answer that says how to fix it."""
        try:
            return self._call(name, {key: part for key, part in arguments.items() if part is not None}, client)
        except AgenttuneError as error:
            return ToolAnswer(error_text(error), is_error=True)

    def _call(self, name: str, given: dict[str, Any], client: str) -> ToolAnswer:
        known = [shape.name for shape in self.shapes()]
        if name not in known:
            why = "this server is read-only" if name in write_kinds() else f"tools: {', '.join(known)}"
            raise CommandError(f"no tool {name!r:.80}; {why}", field="tool", allowed=known)
        if name == LIST_RUNS.name:
            _refuse_more(name, given)
            return ToolAnswer(encode({"runs": [_row(i) for i in self._runs()[:MOST_RUNS]]}, "runs", True))
        run = given.pop("run", None) or self._run
        if not isinstance(run, str):
            raise CommandError(f"{name}.run: a text is wanted (got {run!r:.80})", field="run", allowed=RUN)
        runs = self._runs()
        run_id = run_named(run, [info.run_id for info in runs], newest_live(runs))
        if name == GET_RUN.name:
            _refuse_more(name, given)
            return ToolAnswer(self._overview(run_id))
        return self._on_run(run_id, name, given, client)

    def _on_run(self, run_id: str, name: str, given: dict[str, Any], client: str) -> ToolAnswer:
        seen = self._control.observe(run_id)
        outcome = Toolbox(ControlReader(self._control, run_id), seen).parse(name, given)
        if outcome.wait is not None:
            return ToolAnswer(self._wait(run_id, outcome.wait, seen.last_seq))
        return ToolAnswer(outcome.text) if outcome.command is None else self._submit(run_id, outcome, seen, client)

    def _submit(self, run_id: str, outcome: ToolOutcome, seen: Observation, client: str) -> ToolAnswer:
        if outcome.command is None:
            raise TypeError("an outcome without a command cannot be submitted")
        proposal = Proposal(
            command=outcome.command,
            author=Author(principal="agent", name=f"mcp:{client}"[:128], via=self._via),
            rationale=outcome.rationale,
            based_on_step=seen.step,
            based_on_branch=seen.branch,
            valid_until_step=None if outcome.valid_for_steps is None else seen.step + outcome.valid_for_steps,
        )
        record = settled(self._control, run_id, self._control.submit(run_id, proposal), self._ack_wait_s)
        return ToolAnswer(record_text(record), is_error=record.state in REFUSED)

    def _wait(self, run_id: str, wait: ToolWait, since: int) -> str:
        kinds = ["status_changed", *(kind for field, kind in WAKING.items() if getattr(wait, field))]
        deadline, woken_by = time.monotonic() + self._wait_s, "time"
        while woken_by == "time" and (left_s := deadline - time.monotonic()) > 0:
            found = self._control.events(run_id, since, limit=1, wait_s=min(POLL_S, left_s), kinds=kinds)
            info = self._control.info(run_id)
            if found:
                woken_by = found[0].body.kind
            elif wait.until_step is not None and info.step >= wait.until_step:
                woken_by = "step"
            elif not info.is_live:
                woken_by = f"the run is {info.status}"
        info = self._control.info(run_id)
        told = {"woken_by": woken_by, "run_id": run_id, "status": info.status, "step": info.step}
        return encode({**told, "waited_at_most_s": self._wait_s})

    def _overview(self, run_id: str) -> str:
        seen = self._control.observe(run_id)
        newest = {
            name: {"step": view.steps[-1], "value": view.values[-1]} for name, view in seen.series.items() if view.steps
        }
        told = {
            **_row(self._control.info(run_id)),
            "branch": seen.branch,
            "newest": newest,
            "evaluations": [e.model_dump(mode="json") for e in seen.evaluations[-5:]],
            "findings": [f.summary for f in seen.findings[-5:]],
            "capabilities": seen.capabilities,
            "commands_left": seen.commands_left,
        }
        return encode(told)


def is_idempotent(shape: ToolShape) -> bool:
    """Whether asking twice is the same as asking once: reads, and values that are set."""
    return shape.is_read_only or (shape.name in BY_KIND and BY_KIND[shape.name].risk is Risk.TUNE)


def _with_run(shape: ToolShape) -> ToolShape:
    fields = {**shape.parameters.get("properties", {}), "run": RUN}
    return shape.model_copy(update={"parameters": {**shape.parameters, "properties": fields}})


def _refuse_more(name: str, given: Mapping[str, Any]) -> None:
    if given:
        known = ["run"] if name == GET_RUN.name else []
        more = ", ".join(map(str, given))[:MAX_TEXT]
        raise CommandError(f"{name}: unknown argument {more}; known: {', '.join(known) or 'none'}", allowed=known)


def _row(info: RunInfo) -> dict[str, Any]:
    return {
        "run_id": info.run_id,
        "status": info.status,
        "status_reason": info.status_reason,
        "step": info.step,
        "max_steps": info.max_steps,
        "goal": f"{info.goal_direction} {info.goal_metric}",
    }
