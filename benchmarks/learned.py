"""Makes the learned policy's weights, and judges it where it has never been: `python -m benchmarks.learned`.

Trainings of the benchmark's development range are done again and again with one change more (`bench-results/learning`,
where what is made stays made), an ensemble is fitted to what the changes were worth, and written to
`policies/learned.safetensors`. Then it takes part in a suite, in every task by weights that saw nothing of that task,
and in every kind of fault by weights that saw nothing of that kind: the table of docs/learned.md.
"""

from __future__ import annotations

import argparse
import re
import time
from pathlib import Path
from typing import Any

from agenttune import __version__
from agenttune.bench.backends.backend import Backend, InProcess
from agenttune.bench.backends.local import Local
from agenttune.bench.cell import CellResult
from agenttune.bench.report.content import Table
from agenttune.bench.suite import load_suite
from agenttune.replay.learning.fit import Fitting, fit
from agenttune.replay.learning.moments import TrainingExample
from benchmarks.learning.judging import judge, table_of
from benchmarks.learning.making import Made, make, numbers_of, processor_seconds
from benchmarks.learning.thresholds import thresholds_table

ROOT = Path(__file__).resolve().parent.parent
FOLDER, JUDGED = ROOT / "bench-results" / "learning", ROOT / "bench-results" / "learning-judged"
POLICY, WEIGHTS, PAGE = ROOT / "policies/learned.yaml", ROOT / "policies/learned.safetensors", ROOT / "docs/learned.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=260, help="trainings of all kinds that are done again and again")
    parser.add_argument("--simulated", type=int, default=400, help="and so many more of simulators")
    parser.add_argument("--limit-s", type=float, default=2700.0, help="no further one is begun after so many seconds")
    parser.add_argument("--workers", type=int, default=2, help="processes; 0: none beside this one")
    parser.add_argument("--seeds", type=int, default=1, help="of each scenario in which it is judged; 0: it is not")
    parser.add_argument("--suite", default="judgement", help="the suite in which it is judged")
    asked = parser.parse_args()
    moments = make(FOLDER, numbers_of(asked.units, asked.simulated), asked.limit_s, asked.workers, told)
    made = made_of(moments)
    ensemble = fit(moments, made)
    ensemble.save(WEIGHTS)
    print(f"wrote {WEIGHTS}: {made}")
    write("thresholds", lines_of(thresholds_table(moments, Fitting())))
    if asked.seeds:
        suite = load_suite(asked.suite, seeds=asked.seeds)
        backend: Backend = Local(asked.workers) if asked.workers else InProcess()
        try:
            results = judge(suite, moments, POLICY.read_text(encoding="utf-8"), JUDGED, backend, Fitting())
        finally:
            backend.close()
        write_judged(results, suite.name, asked.seeds, made)


def told(made: Made) -> None:
    print(
        f"unit {made.unit.number}, {made.unit.task}, {made.unit.group}: {len(made.moments)} rows, {made.seconds:.1f} s"
    )


def made_of(moments: list[TrainingExample]) -> dict[str, Any]:
    """What the weights' file tells of itself."""
    return {
        "rows": len(moments),
        "trainings": len({moment.run for moment in moments}),
        "tasks": sorted({moment.task for moment in moments}),
        "processor_minutes": round(processor_seconds(FOLDER) / 60, 1),
        "agenttune": __version__,
        "date": time.strftime("%Y-%m-%d"),
    }


def write_judged(results: list[CellResult], suite: str, seeds: int, made: dict[str, Any]) -> None:
    """Into the page, between its marks."""
    scenarios = len({result.cell.scenario.name for result in results})
    failed = sum(result.state == "failed" for result in results)
    intro = (
        f"Suite `{suite}`, development range, {scenarios} scenarios, seeds 0 to {seeds - 1}; {failed} cells failed. "
        f"Weights of {made['rows']} rows from {made['trainings']} trainings, made in "
        f"{made['processor_minutes']} minutes of processor time, {made['date']}."
    )
    write("judged", [intro, "", *lines_of(table_of(results))])


def lines_of(table: Table) -> list[str]:
    """In Markdown."""
    rows = [table.columns, ["---"] * len(table.columns), *table.rows]
    return [f"| {' | '.join(map(str, row))} |" for row in rows]


def write(mark: str, lines: list[str]) -> None:
    """Between `<!-- mark -->` and `<!-- end -->` of the page."""
    between = re.compile(rf"(<!-- {mark} -->\n).*?(<!-- end -->)", re.DOTALL)
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(between.sub(lambda found: found[1] + "\n".join(lines) + "\n" + found[2], text), encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
