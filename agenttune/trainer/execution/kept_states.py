"""States that a run keeps by itself, so that a wreck that is found late never costs the whole run.

`start` is that of before the first step, `best` that of the best evaluation so far, on whatever branch it was made,
and a few `good` ones were taken while no critical finding stood and the loss was at its best but for noise. They are
copies: training is the same to the bit with and without them.
"""

from __future__ import annotations

import logging
import math
from statistics import median

from agenttune.config import CheckpointSettings
from agenttune.detectors.divergence import Divergence
from agenttune.detectors.trend import LEVEL_STEPS, MEDIAN_ERROR, Trend
from agenttune.errors import AgenttuneError, RanksApart
from agenttune.protocol.events import BestState, KeptAs, NoteAdded
from agenttune.protocol.observation import RECENT_POINTS, Observation, SeriesView
from agenttune.protocol.redefining import Redefinition
from agenttune.protocol.run_info import RunInfo
from agenttune.protocol.text import some
from agenttune.trainer.checkpoints.checkpoint_catalog import SavedCheckpoint
from agenttune.trainer.checkpoints.training_state import TrainingState
from agenttune.trainer.execution.single_rank import SingleRank
from agenttune.trainer.probation.loss_history import LossHistory
from agenttune.trainer.recording.recorder import Recorder
from agenttune.trainer.run_state import REASON_CHARACTERS, RunState

logger = logging.getLogger("agenttune")

FEWEST_LOSSES = 8
"""Before there are so many, nothing tells a good state (guess: what the detectors need at least)."""
ABOVE_BEST_SIGMAS = 3.0
"""How far the level of a good state may lie above the best one, in standard errors of a median (guess)."""
NEWEST_STEPS = 4
"""Points whose median must not stick out above the level: a rise that has just begun (guess)."""
NEWEST_SIGMAS = 3.0
"""By so many standard errors of that median (guess)."""
FEWEST_STEPS = 4
"""Between two good states, however short the run."""
RETRIES = 4
"""Parts of the usual wait after which it is looked again, where a state was not good."""
DISK_WAITS = 3
"""Times the usual wait after a state that had to go to disk, which takes longer."""
MOST_FAILURES = 3
"""After so many states in a row that could not be kept no more are tried (guess)."""
OPEN_END_STEPS = 1000
"""What counts as the run's length where its end is not known, until it is longer (guess)."""
METRIC = "step_loss"


class KeptStates:
    """Decides when a state is kept, and keeps it where the loop is done with a step.

    Args:
        settings: How many, and how often.
        info: The run's goal.
        run_state: The run.
        recorder: Writes the log.
        ranks: All processes of the run.

    Attributes:
        next_step: The step at which it is next looked whether the state is a good one.
    """

    def __init__(
        self, settings: CheckpointSettings, info: RunInfo, run_state: RunState, recorder: Recorder, ranks: SingleRank
    ) -> None:
        self._settings, self._info, self._ranks = settings, info, ranks
        self._run_state, self._recorder = run_state, recorder
        self._losses = LossHistory(RECENT_POINTS)
        self.add = self._losses.add
        """Takes the numbers of a step."""
        self._levels: list[tuple[int, float]] = []
        """Levels of the losses at earlier looks, by step."""
        self._due: set[KeptAs] = set()
        self._best: float | None = None
        self._is_on = False
        self._failures = 0
        """In a row."""
        self.next_step: float = math.inf

    def begin(self, step: int) -> None:
        """Training begins: keep the state of before the first step as soon as the loop is there."""
        if self._run_state.adapter.checkpoint_refusal():
            return  # it cannot go back, as `load_checkpoint` says
        self._is_on = True
        adapter = self._run_state.adapter
        if adapter.resumed_from() not in adapter.found_checkpoints():  # else that is the state of before the first step
            self._due.add("start")
        self._schedule(step)

    @property
    def is_due(self) -> bool:
        """Whether a state is to be kept as soon as the loop is done with the step."""
        return bool(self._due)

    @property
    def is_start_due(self) -> bool:
        return "start" in self._due

    def _schedule(self, step: int, parts: float = 1) -> None:
        if self._is_on and self._settings.good_states:
            whole = self._run_state.adapter.max_steps() or max(step, OPEN_END_STEPS)
            self.next_step = step + max(FEWEST_STEPS, round(self._settings.good_every_frac * whole / parts))

    # -- what is told ---------------------------------------------------------------------------------------------

    def evaluated(self, value: float) -> None:
        """The goal metric of an evaluation."""
        sign = 1 if self._info.goal_direction == "minimize" else -1
        if math.isfinite(value) and (self._best is None or sign * value < sign * self._best):
            self._best = value
            if self._is_on:
                self._due.add("best")

    def redefine(self, redefined: Redefinition) -> None:
        """A loss has another meaning from here on."""
        if redefined.touches(METRIC):
            self._losses.redefine(redefined.step)
            self._levels = []
        if redefined.touches(self._info.goal_metric):
            self._best = None

    def left(self, step: int) -> None:
        """The run goes on from an earlier step: good states that are not on its way are none any more."""
        self._losses.cut(step)
        self._levels = [(at, level) for at, level in self._levels if at <= step]
        self._due -= {"good", "best"}
        self._schedule(step)
        checkpoints = self._run_state.checkpoints
        line = checkpoints.branches.lineage()
        undone = [c for c in checkpoints.kept("good") if not line.has(c.branch, c.step)]
        reason = "the run went back over it"
        gone = [event for c in undone if (event := checkpoints.release(c.checkpoint_id, reason)) is not None]
        if gone:
            self._ranks.drop([event.checkpoint_id for event in gone])
            self._recorder.record(*gone)

    # -- keeping ----------------------------------------------------------------------------------------------------

    def look(self, step: int) -> None:
        """At the end of a step: is it a good state?"""
        if step < self.next_step:
            return
        end = self._run_state.adapter.max_steps()
        is_good = self._is_good(step)
        self._schedule(step, 1 if is_good else RETRIES)
        if is_good and (end is None or step < end):
            self._due.add("good")

    def _is_good(self, step: int) -> bool:
        losses = self._losses.until(step, RECENT_POINTS)
        newest = losses[-LEVEL_STEPS:]
        if len(losses) < FEWEST_LOSSES or not all(map(math.isfinite, newest)):
            return False
        steps = list(range(step - len(losses) + 1, step + 1))
        before = [(at, level) for at, level in self._levels if at < steps[0]]
        view = SeriesView.model_construct(
            name=METRIC,
            steps=steps,
            values=losses,
            downsampled_steps=[at for at, _ in before],
            downsampled_values=[level for _, level in before],
            first_steps=[],  # given, as pydantic takes long to find out how a default is made
            first_values=[],
        )
        seen = self._seen(step, view)
        trend = Trend.of(seen)  # which the detector gets too
        if trend is None:
            return False
        self._levels.append((step, trend.level))
        return _is_at_its_best(trend) and not any(f.severity == "critical" for f in Divergence().detect(seen))

    def _seen(self, step: int, view: SeriesView) -> Observation:
        return Observation(
            run_id=self._info.run_id,
            status="running",
            step=step,
            at_s=0.0,
            goal_metric=self._info.goal_metric,
            goal_direction=self._info.goal_direction,
            series={METRIC: view},
        )

    def take(self) -> None:
        """Keep the state of now as what is due; only where the loop is settled."""
        due, self._due = sorted(self._due, key=ORDER.index), set()
        for kept_as in due:
            try:
                has_room = self._keep(kept_as)
            except RanksApart:
                raise
            except Exception as error:  # training is worth more than a state to go back to
                self._fail(kept_as, error)
                return
            self._failures = 0
            if not has_room and kept_as == "start":
                self._stop()
                return

    def _fail(self, kept_as: KeptAs, error: Exception) -> None:
        """A disk that is full may be emptied; what fails again and again is given up."""
        self._failures += 1
        logger.warning("a %s state could not be kept; training goes on", kept_as, exc_info=error)
        is_over = self._failures >= MOST_FAILURES
        told = "no states are kept to go back to any more" if is_over else f"a {kept_as} state could not be kept"
        self._note(f"{told}: {error}"[:REASON_CHARACTERS])
        if is_over:
            self._stop()

    def _keep(self, kept_as: KeptAs) -> bool:
        run_state = self._run_state
        state = self._ranks.captured()
        most = self._settings.good_states if kept_as == "good" else 1
        saved, gone = run_state.checkpoints.keep(state, run_state.adapter.write_model, kept_as, most, self._for_disk)
        # One of a rolling few, in memory, can wait a quarter of a second for the next rows of the log.
        is_urgent = kept_as != "good" or (saved is not None and saved.path is not None)
        if gone:
            self._ranks.drop([event.checkpoint_id for event in gone])
            self._recorder.record(*gone, urgent=is_urgent)
        if saved is not None:
            self._ranks.hold(saved)
        if saved is not None and kept_as == "good" and saved.path is not None:
            self._schedule(run_state.step, 1 / DISK_WAITS)
        if saved is None and kept_as == "start":
            size = f"{state.tensor_bytes / 2**20:,.1f} MiB"
            text = f"no states are kept to go back to: one takes {size}; see checkpoints.memory_gib and max_gib"
            self._note(text)
        if saved is not None:
            self._recorder.record(saved.saved_event(), urgent=is_urgent)
        return saved is not None

    def _for_disk(self) -> TrainingState:
        return self._ranks.captured_for_disk()

    def _stop(self) -> None:
        self._due, self.next_step, self._is_on = set(), math.inf, False

    def end(self) -> None:
        """Training has come to its end: offer the best state, and delete what lies on disk for the run alone."""
        checkpoints = self._run_state.checkpoints
        if not self._run_state.adapter.loads_best():
            self._offer_best()
        over = [c for kept_as in ("start", "good") for c in checkpoints.kept(kept_as) if c.path is not None]
        gone = [checkpoints.release(c.checkpoint_id, "the run that it was kept for is over") for c in over]
        events = [event for event in gone if event is not None]
        if events:
            self._recorder.record(*events)

    def _offer_best(self) -> None:
        """Tell of the best state where the end is another, and put it into the model where that is asked for."""
        run_state = self._run_state
        best = run_state.checkpoints.kept("best")[-1:]
        if not best or "best" in self._due or (best[0].branch, best[0].step) == (run_state.branch, run_state.step):
            if self._settings.load_best_at_end and not best and "best" not in self._due:
                self._note("load_best_at_end: no best state is kept, so the model stays as training has left it")
            return
        is_loaded = self._settings.load_best_at_end and self._load(best[0])
        body = BestState(
            checkpoint_id=best[0].checkpoint_id,
            at_step=best[0].step,
            metric=self._info.goal_metric,
            value=best[0].metric if best[0].metric is not None else math.nan,
            end_value=run_state.checkpoints.metric,
            is_loaded=is_loaded,
        )
        self._recorder.record(body)

    def _load(self, best: SavedCheckpoint) -> bool:
        """Put its weights and buffers into the model, and read them back."""
        if not self._ranks.is_single:  # they may not come to their end at the same time
            self._note("load_best_at_end: in a run of several processes the model stays as training has left it")
            return False
        try:
            wrong = self._ranks.load_best(best)
        except AgenttuneError as error:
            self._note(f"load_best_at_end: the model stays as training has left it: {error}")
            return False
        if wrong:
            self._note(f"load_best_at_end: these do not stand as saved: {some(wrong)}")
        return not wrong

    def _note(self, text: str) -> None:
        self._recorder.record(NoteAdded(text=text, author="agenttune"))


ORDER: list[KeptAs] = ["start", "best", "good"]


def _is_at_its_best(trend: Trend) -> bool:
    """Whether the level is not above the best one by more than noise, and the newest losses are not above the level."""
    count = min(LEVEL_STEPS, len(trend))
    above = trend.height(trend.level) - trend.height(trend.best)
    if above > ABOVE_BEST_SIGMAS * MEDIAN_ERROR * trend.noise / math.sqrt(count):
        return False
    newest = trend.height(median(trend.values[-NEWEST_STEPS:])) - trend.height(trend.level)
    return newest <= NEWEST_SIGMAS * MEDIAN_ERROR * trend.noise / math.sqrt(NEWEST_STEPS)
