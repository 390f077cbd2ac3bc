"""What the learned policy can learn from a user's own runs: changes made there whose effect was measured."""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agenttune.control import LocalControl
from agenttune.detectors.effects import acted
from agenttune.errors import StoreFault, UserError
from agenttune.policy.learned.possible_changes import CHANGES, PossibleChange, state_of
from agenttune.policy.learned.snapshot import Snapshot
from agenttune.protocol.commands import LoadCheckpoint, UpdateOptimizer, UpdateSchedule
from agenttune.protocol.effects import Effect
from agenttune.protocol.proposals import CommandRecord
from agenttune.protocol.run_info import RunInfo
from agenttune.replay.learning.moments import TrainingExample, gain_of
from agenttune.store.earlier import copy_as_of
from agenttune.store.journal.goal_metric import EVERYTHING
from agenttune.store.journal.measured_effects import MeasuredEffects
from agenttune.store.run_log import RunLog, list_runs, run_folder

FEWEST_MOMENTS, FEWEST_RUNS = 20, 4
"""With fewer a refined ensemble would know these runs by heart, and nothing of the next (guess)."""
NEAR = 1.6
"""A rate is taken for that of a change that is off by no more than this factor (guess: halfway to the next)."""


@dataclass
class OwnRuns:
    """What a folder of runs has to tell.

    Attributes:
        moments: Changes that were measured.
        runs: Logs that were read.
        passed_over: Why other changes were not taken, and how often.
    """

    moments: list[TrainingExample] = field(default_factory=list)
    runs: int = 0
    passed_over: Counter[str] = field(default_factory=Counter)

    @property
    def told(self) -> str:
        """In a sentence."""
        others = ", ".join(f"{count} {why}" for why, count in self.passed_over.most_common())
        of = len({moment.run for moment in self.moments})
        return f"{len(self.moments)} measured changes in {of} of {self.runs} runs" + (
            f"; not taken: {others}" if others else ""
        )


def moments_in(runs_dir: Path) -> OwnRuns:
    """The measured changes of all runs of a folder, in which nothing is written.

    Raises:
        UserError: They are too few to learn from; says how many there are.
    """
    found = OwnRuns()
    for info in list_runs(runs_dir):
        try:
            _read(run_folder(runs_dir, info.run_id), found)
        except StoreFault as error:  # one damaged log is no reason to learn from none
            found.passed_over[f"logs that cannot be read ({str(error)[:80]})"] += 1
    if len(found.moments) < FEWEST_MOMENTS or len({moment.run for moment in found.moments}) < FEWEST_RUNS:
        raise UserError(
            f"too little to learn from in {runs_dir}: {found.told}; {FEWEST_MOMENTS} changes in {FEWEST_RUNS} runs are "
            "needed. Collect more runs in which something was changed, by a policy or by hand."
        )
    return found


def _read(folder: Path, found: OwnRuns) -> None:
    log = RunLog.open_read_only(folder)
    found.runs += 1
    try:
        info, records = log.info(), log.commands(limit=EVERYTHING)
        effects = MeasuredEffects().of(log, info, records)
        seqs = {e.command_id: e.seq for e in log.events(kinds=["proposed"], limit=EVERYTHING)}
    finally:
        log.close()
    for record in filter(acted, records):
        effect = effects.get(record.command_id)
        if effect is None or effect.verdict == "not known" or effect.expected is None or effect.found is None:
            found.passed_over["whose effect cannot be told"] += 1
            continue
        snapshot = snapshot_before(folder, info.run_id, seqs[record.command_id])
        change = change_like(record, snapshot)
        if change is None:
            found.passed_over["of kinds that the policy does not propose"] += 1
        else:
            gain = _gain(effect, info)
            found.moments.append(TrainingExample(info.run_id, "own", "own", snapshot, change.name, gain))


def _gain(effect: Effect, info: RunInfo) -> float:
    if effect.verdict == "no clear effect" or effect.expected is None or effect.found is None:
        return 0.0
    is_maximized = effect.metric == info.goal_metric and info.goal_direction == "maximize"
    sign = -1.0 if is_maximized else 1.0
    return gain_of(sign * effect.expected, sign * effect.found)


def snapshot_before(folder: Path, run_id: str, seq: int) -> Snapshot:
    """What could be known before an event of a run."""
    with tempfile.TemporaryDirectory(prefix="agenttune-learn-") as aside:
        copy_as_of(folder, seq, Path(aside) / run_id).close()
        control = LocalControl(Path(aside))
        try:
            return Snapshot.of(control.observe(run_id))
        finally:
            control.log(run_id).close()


def change_like(record: CommandRecord, snapshot: Snapshot) -> PossibleChange | None:
    """The change that a command of anybody's amounts to; None if it is another one."""
    command, factor = record.command, _factor(record)
    if isinstance(command, UpdateSchedule):
        return next(change for change in CHANGES if change.plans_anew) if command.shape == "cosine" else None
    if isinstance(command, LoadCheckpoint):
        asked = (command.checkpoint_id, command.lr is not None)
        like = [c for c in CHANGES if c.back_to is not None and _goes_to(c, asked[0], snapshot)]
        return _nearest(like, factor if asked[1] else 1.0)
    if isinstance(command, UpdateOptimizer) and command.lr is not None:
        return _nearest([c for c in CHANGES if c.back_to is None and not c.plans_anew], factor)
    return None


def _goes_to(change: PossibleChange, checkpoint_id: str, snapshot: Snapshot) -> bool:
    return change.back_to is not None and checkpoint_id in (change.back_to, state_of(snapshot, change.back_to))


def _nearest(changes: Sequence[PossibleChange], factor: float) -> PossibleChange | None:
    near = [(abs(math.log(factor / change.factor)), change) for change in changes] if factor > 0 else []
    closest = min(near, key=lambda one: one[0], default=None)
    return closest[1] if closest is not None and closest[0] <= math.log(NEAR) else None


def _factor(record: CommandRecord) -> float:
    """Of the rate, by what was read back; 0 where it did not change."""
    return next(_factors(record), 0.0)


def _factors(record: CommandRecord) -> Iterator[float]:
    for change in record.ack.changes if record.ack is not None else ():
        if change.name == "lr":
            after, before = change.base, change.previous_base
            after, before = (change.effective, change.previous) if after is None or before is None else (after, before)
            if isinstance(after, (int, float)) and isinstance(before, (int, float)) and before > 0:
                yield after / before
