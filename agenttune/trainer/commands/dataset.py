"""The two commands that change the training dataset."""

from __future__ import annotations

from typing import Any

from agenttune.errors import UserError
from agenttune.protocol.commands import UpdateDataset, UpdateDatasetRuntimeHyperparameters
from agenttune.protocol.proposals import Change, CommandRecord
from agenttune.trainer.commands.outcomes import Done, Expectation, Outcome, applies
from agenttune.trainer.datasets.parameters import DatasetParameters, parameters_of
from agenttune.trainer.datasets.rebuild import rebuilt
from agenttune.trainer.datasets.record import read_dataset
from agenttune.trainer.lr.optimizers import same
from agenttune.trainer.run_state import RunState


@applies(UpdateDatasetRuntimeHyperparameters)
def update_dataset_runtime_hyperparameters(
    run_state: RunState, record: CommandRecord, command: UpdateDatasetRuntimeHyperparameters
) -> Outcome:
    """Put runtime values in force, read them back from where workers read them, and draw the next batch anew."""
    dataset, parameters = _interactive(run_state)
    fitted = parameters.fit_runtime(dataset, command.values)
    before = parameters.reread()

    def undo() -> None:
        parameters.write(before)

    run_state.agree()
    try:
        parameters.write(fitted)
        after = parameters.reread()
        wrong = [name for name, value in fitted.items() if not same(after[name], value)]
        if wrong:
            raise UserError(f"did not read back as written, all put back: {', '.join(wrong)}")
        message = run_state.adapter.redraw()
    except BaseException:
        undo()
        raise
    changes = [
        Change(name=name, previous=before[name], requested=asked, effective=after[name])
        for name, asked in command.values.items()
    ]
    expectations = [_expect(run_state, name, after[name]) for name in fitted]
    return Done(message, changes, events=(read_dataset(dataset),), expectations=expectations, undo=undo)


@applies(UpdateDataset)
def update_dataset(run_state: RunState, record: CommandRecord, command: UpdateDataset) -> Outcome:
    """Build the dataset anew and draw from the new one; the old one stays in use if it cannot be built."""
    dataset, parameters = _interactive(run_state)
    fitted = parameters.fit_initialization(command.values)
    before = parameters.initialization()
    new = rebuilt(dataset, fitted)
    change_over = run_state.adapter.replacement(new.dataset)
    run_state.agree()
    message = change_over()
    found = parameters_of(run_state.adapter.train_dataset())
    after = found.initialization() if found is not None else {}
    changes = [
        Change(name=name, previous=before[name], requested=asked, effective=after.get(name))
        for name, asked in command.values.items()
    ]
    event = read_dataset(run_state.adapter.train_dataset())

    def undo() -> None:
        run_state.adapter.replace_dataset(dataset, keeps_place=True)

    return Done(" ".join(filter(None, [message, *new.notes])), changes, events=(event,), undo=undo)


def _interactive(run_state: RunState) -> tuple[object, DatasetParameters]:
    dataset = run_state.adapter.train_dataset()
    parameters = parameters_of(dataset)
    if dataset is None or parameters is None:
        kind = "no training dataset known" if dataset is None else f"the training dataset is a {type(dataset).__name__}"
        raise UserError(
            f"{kind}, without parameters that can be changed; make it with "
            "agenttune.make_interactive_dataset, or as an agenttune.Mixture"
        )
    return dataset, parameters


def _expect(run_state: RunState, name: str, value: Any) -> Expectation:
    """The value as the training dataset of that time has it; a dataset without it has replaced this one."""

    def read() -> list[Any] | None:
        parameters = parameters_of(run_state.adapter.train_dataset())
        return [parameters.reread()[name]] if parameters is not None and name in parameters.names else None

    return Expectation(f"dataset.{name}", [value], read)
