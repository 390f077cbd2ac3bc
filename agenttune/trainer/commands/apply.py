"""Commands are applied here; those about the optimizer, the schedule, the dataset and layers have their own modules."""

from __future__ import annotations

from typing import Any

from agenttune.errors import NotSupported, UserError
from agenttune.protocol.commands import (
    AddNote,
    CommandBase,
    DoEvaluate,
    PauseTraining,
    Probe,
    ResumeTraining,
    SaveCheckpoint,
    SetKnob,
    StopTraining,
    UpdateTraining,
)
from agenttune.protocol.events import NoteAdded, StatusChanged
from agenttune.protocol.proposals import Change, CommandRecord
from agenttune.trainer.adapter import Adapter
from agenttune.trainer.commands import (  # noqa: F401 - they register
    checkpoints,
    dataset,
    layers,
    load_checkpoint,
    update_optimizer,
    update_schedule,
)
from agenttune.trainer.commands.outcomes import (
    HANDLERS,
    AwaitCapture,
    AwaitProbe,
    AwaitSave,
    Done,
    Expectation,
    NotYet,
    Outcome,
    applies,
)
from agenttune.trainer.lr.optimizers import same
from agenttune.trainer.run_state import RunState


def apply_command(run_state: RunState, record: CommandRecord, candidate: CommandBase | None = None) -> Outcome:
    """Apply one command.

    Args:
        run_state: The run.
        record: The command.
        candidate: Of a probe: apply this one of it.

    Raises:
        UserError: It cannot be applied as asked; nothing has changed.
        Exception: A defect; what was written has been put back.
    """
    command = record.command if candidate is None else candidate
    _check_can(run_state.adapter, command.kind)
    return HANDLERS[command.kind](run_state, record, command)


def _check_can(adapter: Adapter, kind: str) -> None:
    if kind not in adapter.capabilities:
        raise NotSupported(f"{kind}: {adapter.refusal(kind)}")
    if kind not in HANDLERS:
        raise NotSupported(f"{kind}: the loop can, but no function is registered that applies it (trainer/commands)")


# -- the loop ------------------------------------------------------------------------------------------------------

_SETTINGS = ("max_grad_norm", "gradient_accumulation_steps", "max_steps")


@applies(UpdateTraining)
def update_training(run_state: RunState, record: CommandRecord, command: UpdateTraining) -> Outcome:
    adapter = run_state.adapter
    asked = {name: getattr(command, name) for name in _SETTINGS if getattr(command, name) is not None}
    notes = [adapter.check_setting(name, value, run_state.step) for name, value in asked.items()]
    if not all(adapter.is_ready_for(name, value) for name, value in asked.items()):
        return NotYet()
    before = _read_settings(adapter)

    def undo() -> None:
        for name in asked:
            adapter.change_setting(name, before[name])

    run_state.agree()
    try:
        for name, value in asked.items():
            adapter.change_setting(name, value)
        after = _read_settings(adapter)
        wrong = [name for name, value in asked.items() if not same(after[name], value)]
        if wrong:
            raise UserError(f"did not read back as written, all put back: {', '.join(wrong)}")
    except BaseException:
        undo()
        raise
    changes = [
        Change(name=name, previous=before[name], requested=value, effective=after[name])
        for name, value in asked.items()
    ]
    expectations = [_expect_setting(run_state, name, value) for name, value in asked.items()]
    return Done(" ".join(filter(None, notes)), changes, expectations=expectations, undo=undo)


def _read_settings(adapter: Adapter) -> dict[str, Any]:
    return {knob.name: knob.effective for knob in adapter.settings()}


def _expect_setting(run_state: RunState, name: str, value: Any) -> Expectation:
    return Expectation(name, [value], lambda: [_read_settings(run_state.adapter)[name]])


@applies(SetKnob)
def set_knob(run_state: RunState, record: CommandRecord, command: SetKnob) -> Outcome:
    run_state.registry.check(command.name, command.value)
    run_state.agree()
    change, read = run_state.registry.set(command.name, command.value)
    expected = Expectation(command.name, [change.effective], lambda: [read()])

    def undo() -> None:
        run_state.registry.put_back(command.name, change.previous)

    return Done(changes=[change], expectations=[expected], undo=undo)


@applies(SaveCheckpoint)
def save_checkpoint(run_state: RunState, record: CommandRecord, command: SaveCheckpoint) -> Outcome:
    adapter = run_state.adapter
    refusal = adapter.checkpoint_refusal()
    if not refusal:
        return AwaitCapture(command.keep_in, command.tag, command.pin)
    if command.keep_in == "memory":
        raise NotSupported(f"a snapshot in memory: {refusal}")
    if not adapter.can_end_here():
        return NotYet()
    run_state.agree()
    adapter.request_save()
    return AwaitSave(tag=command.tag)


@applies(Probe)
def probe(run_state: RunState, record: CommandRecord, command: Probe) -> Outcome:
    adapter = run_state.adapter
    refusal = adapter.trial_refusal()
    if refusal:
        raise NotSupported(f"probe: {refusal}")
    if run_state.paused:
        raise UserError("a probe trains, and training is paused; resume_training first")
    if run_state.is_held():
        raise UserError(f"a probe trains, and {run_state.standstill}; ask again once it goes on")
    end = adapter.max_steps()
    if end is not None and not command.is_return and run_state.step + command.steps >= end:
        raise UserError(
            f"trials of {command.steps} steps would reach the run's end at step {end}; it is at step {run_state.step}",
            field="steps",
            allowed={"maximum": max(0, end - run_state.step - 1)},
        )
    for candidate in command.candidates:
        _check_can(adapter, candidate.kind)
    return AwaitProbe(command)


@applies(DoEvaluate)
def do_evaluate(run_state: RunState, record: CommandRecord, command: DoEvaluate) -> Outcome:
    run_state.agree()  # an evaluation that all take part in would wait for a rank that cannot
    metrics = run_state.adapter.evaluate()
    return Done(result=dict(metrics))


@applies(PauseTraining)
def pause_training(run_state: RunState, record: CommandRecord, command: PauseTraining) -> Outcome:
    author, holder = record.proposal.author, run_state.paused_by
    if holder is not None and (holder.principal != "agent" or author.principal == "agent"):
        return Done("was already paused")
    # A person's pause takes the place of an agent's: from then on no agent ends it.
    run_state.paused_by = author
    message = "" if holder is None else f"was already paused by {holder.name}; only a person lets it go on now"
    return Done(message, events=(StatusChanged(status="paused", reason=f"paused by {author.name}", by=author),))


@applies(ResumeTraining)
def resume_training(run_state: RunState, record: CommandRecord, command: ResumeTraining) -> Outcome:
    if not run_state.paused:
        return Done("; ".join(filter(None, ["was not paused", run_state.standstill])))
    run_state.paused_by = None
    reason = f"resumed by {record.proposal.author.name}"
    return Done(events=(StatusChanged(status="running", reason=reason),))


@applies(StopTraining)
def stop_training(run_state: RunState, record: CommandRecord, command: StopTraining) -> Outcome:
    adapter = run_state.adapter
    if not adapter.can_end_here():
        # The loop cannot end before its first step; a pause would keep it from that step.
        run_state.paused_by = None
        return NotYet()
    run_state.agree()
    run_state.paused_by = None
    run_state.stop_reason = f"stopped by {record.proposal.author.name}"
    ending = "training ends after this step"
    if command.save and not adapter.checkpoint_refusal() and not adapter.saves_for_restart():
        return AwaitCapture(message=ending, is_last=True)
    adapter.request_stop()
    if not command.save:
        return Done(ending)
    adapter.request_save()
    return AwaitSave(ending, is_last=True)


@applies(AddNote)
def add_note(run_state: RunState, record: CommandRecord, command: AddNote) -> Outcome:
    return Done(events=(NoteAdded(text=command.text, author=record.proposal.author.name),))
