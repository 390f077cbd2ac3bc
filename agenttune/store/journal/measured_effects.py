"""The effects of a run's newest changes, measured as the log grows; what cannot change any more is measured once."""

from __future__ import annotations

from collections.abc import Sequence

from agenttune.detectors.effects import acted
from agenttune.protocol.effects import Effect
from agenttune.protocol.proposals import CommandRecord, State
from agenttune.protocol.run_info import RunInfo
from agenttune.store.journal.measured_branch import MeasuredBranch
from agenttune.store.run_log import RunLog


class MeasuredEffects:
    """What is known of one run's changes so far."""

    def __init__(self) -> None:
        self._final: dict[tuple[str, State], Effect] = {}
        """By id and state: a change that is taken back later is told of by what it was taken back for."""

    def of(self, log: RunLog, info: RunInfo, records: Sequence[CommandRecord]) -> dict[str, Effect]:
        """The effects of these commands, by id; of those that changed nothing there are none.

        Args:
            log: The run's log.
            info: The run as it stands.
            records: Its newest commands, oldest first.
        """
        wanted = [record for record in records if acted(record)]
        branches: dict[str, MeasuredBranch] = {}
        found: dict[str, Effect] = {}
        for record in wanted:
            effect = self._final.get((record.command_id, record.state))
            effect = effect or _measure(log, info, records, record, branches)
            if effect is not None:
                found[record.command_id] = effect
        states = {record.command_id: record.state for record in wanted}
        self._final = {(name, states[name]): effect for name, effect in found.items() if effect.is_final}
        return found


def _measure(
    log: RunLog,
    info: RunInfo,
    records: Sequence[CommandRecord],
    record: CommandRecord,
    branches: dict[str, MeasuredBranch],
) -> Effect | None:
    """The effect along the branch that it was made on, which is read once."""
    name = info.branch if record.ack is None else record.ack.branch
    if name not in branches:
        branches[name] = MeasuredBranch.of(log, info, records, name)
    return branches[name].effect(record)
