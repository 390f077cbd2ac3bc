"""Reading one run of a control, and waiting for what the trainer answers to a command."""

from __future__ import annotations

from pydantic import ValidationError

from agenttune.control.control import Control
from agenttune.errors import RunEnded, SystemFault, UserError
from agenttune.protocol.commands import ReadModel
from agenttune.protocol.proposals import Author, CommandRecord, Proposal, State, Verdict
from agenttune.protocol.reads import MAX_WAIT_S, Checkpoints, CommandQuery, Model, ModelQuery, R, RunQuery
from agenttune.protocol.run_info import ModuleInfo

READER = Author(principal="viewer", name="reader")
"""The author of commands that only ask the trainer to measure."""


class ControlReader:
    """`RunReader` and `Asker` of a run of a control. As safe to share between threads as the control is.

    Args:
        control: The control.
        run_id: The run.
        is_operators: Also show what is not for agents: checkpoints that lay there before the run began.
    """

    def __init__(self, control: Control, run_id: str, is_operators: bool = False) -> None:
        self._control = control
        self._run_id = run_id
        self._is_operators = is_operators

    def read(self, query: RunQuery[R]) -> R:
        found = self._control.read(self._run_id, query)
        if self._is_operators or not isinstance(found, Checkpoints):
            return found
        own = [checkpoint for checkpoint in found.checkpoints if not checkpoint.is_before]
        return found.model_copy(update={"checkpoints": own})

    def dry_run(self, proposal: Proposal) -> Verdict:
        return self._control.dry_run(self._run_id, proposal)

    def ask(self, proposal: Proposal, wait_s: float) -> CommandRecord:
        """Submit a command and wait for its answer; one that waits for somebody's approval is not waited for."""
        record = self._control.submit(self._run_id, proposal)
        return record if record.state is State.PROPOSED else settled(self._control, self._run_id, record, wait_s)


def settled(control: Control, run_id: str, record: CommandRecord, wait_s: float) -> CommandRecord:
    """A command once it has its ack or needs none, or as it stands when `wait_s` is over."""
    while not record.is_settled and wait_s > 0:
        turn_s = min(MAX_WAIT_S, wait_s)
        record = control.read(run_id, CommandQuery(command_id=record.command_id, wait_s=turn_s))
        wait_s -= turn_s
    return record


def measure(control: Control, run_id: str, query: ModelQuery) -> Model:
    """A model's layers with their norms, as the trainer measures them now.

    Raises:
        UserError: No such layer, or the trainer refuses to measure.
        SystemFault: It did not measure within `query.wait_s`.
    """
    record = control.submit(run_id, norms_asked(query))
    return norms_of(settled(control, run_id, record, query.wait_s), query)


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


def norms_asked(query: ModelQuery, via: str = "") -> Proposal:
    """The command that makes the trainer measure what a read asks for."""
    command = ReadModel(layer_name=query.layer, norms=True)
    return Proposal(command=command, author=READER.model_copy(update={"via": via}), rationale="asked for norms")


def norms_of(record: CommandRecord, query: ModelQuery) -> Model:
    """What the trainer answered to `read_model`.

    Raises:
        UserError: It refused, or the run has ended.
        SystemFault: It has not answered yet.
    """
    ack = record.ack
    if ack is None and record.verdict is not None and record.is_final:
        raise UserError(record.verdict.reason, field="layer")
    if ack is None:
        raise SystemFault(f"the trainer did not measure within {query.wait_s:g} s; ask with a longer wait_s")
    if record.state == State.EXPIRED:
        raise RunEnded(ack.message)
    if ack.outcome != "applied":
        raise UserError(ack.message, field="layer" if query.layer else None)
    try:
        return Model(step=ack.step, model=ModuleInfo.model_validate(ack.result), message=ack.message)
    except ValidationError as error:
        raise SystemFault(f"the trainer's answer to read_model is no layer: {error.errors()[0]['msg']}") from None
