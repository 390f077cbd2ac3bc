"""The list of runs, with what was read of each kept until its log is written again."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from pydantic import ValidationError

from agenttune.control.run_logs import RunLogs
from agenttune.errors import StoreFault, UnknownRun
from agenttune.protocol.overview import GoalOverview, Measured, OverviewQuery, RunOverview, RunsOverview
from agenttune.protocol.run_info import RunInfo
from agenttune.store.journal.run_overview import OverviewFold
from agenttune.store.kept_reads import KeptReads
from agenttune.store.run_folders import Writing, content, writing


class _Kept(NamedTuple):
    """What is known of a run as of a writing of its log; the fold goes on while it is live."""

    created_at_s: float
    written: Writing | None
    measured: Measured
    fold: OverviewFold | None


class Overviews:
    """The list of runs of a folder. Safe to share between threads.

    Args:
        logs: The logs of the folder.
    """

    def __init__(self, logs: RunLogs) -> None:
        self._logs = logs
        self._lock = threading.Lock()
        self._kept: dict[str, _Kept] = {}
        self._file = KeptReads(logs.runs_dir, "measured")

    def page(self, infos: Sequence[RunInfo], query: OverviewQuery) -> RunsOverview:
        """The runs that are asked for, of those there are.

        Only what is shown is read: of a run whose log was not written since, nothing.
        """
        found = [info for info in infos if query.fits(info)]
        shown = found[query.offset : query.offset + query.limit]
        with self._lock:
            there = {info.run_id for info in infos}
            self._kept = {run_id: kept for run_id, kept in self._kept.items() if run_id in there}
            rows = [RunOverview.of(info, self._measured(info)) for info in shown]
            self._file.save(there)
        return RunsOverview(
            runs=rows,
            total=len(found),
            statuses=_counts([info.status for info in infos]),
            tags=_counts([tag for info in infos for tag in info.tags]),
        )

    def _measured(self, info: RunInfo) -> Measured:
        written, kept = content(writing(self._logs.runs_dir / info.run_id)), self._kept.get(info.run_id)
        if kept is not None and kept.created_at_s != info.created_at_s:
            kept = None  # another run of that name
        if kept is not None and kept.written == written:
            return kept.measured
        if kept is None and not info.is_live and (filed := self._from_file(info.run_id, written)) is not None:
            self._kept[info.run_id] = _Kept(info.created_at_s, written, filed, None)
            return filed
        fold = kept.fold if kept is not None and kept.fold is not None else OverviewFold()
        try:
            measured = fold.measure(self._logs.log(info.run_id), info)
        except (StoreFault, UnknownRun):  # its folder was deleted meanwhile: the list goes on without what it held
            return Measured(goal=GoalOverview(metric=info.goal_metric, direction=info.goal_direction))
        self._kept[info.run_id] = _Kept(info.created_at_s, written, measured, fold if info.is_live else None)
        if not info.is_live and written is not None:
            self._file.add(info.run_id, written, measured.model_dump_json())
        return measured

    def _from_file(self, run_id: str, written: Writing | None) -> Measured | None:
        body = None if written is None else self._file.find(run_id, written)
        if body is None:
            return None
        try:
            return Measured.model_validate_json(body)
        except ValidationError:  # of another build of this version
            return None


def _counts(words: Sequence[str]) -> dict[str, int]:
    return dict(Counter(words))
