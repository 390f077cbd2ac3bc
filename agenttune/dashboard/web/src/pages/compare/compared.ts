import type { AxisCurve, RunInfo } from "../../api/schema";
import { COLORS, traceOf, type Trace } from "../../charts/traces";
import type { Axis } from "../../charts/useCurves";

/** A curve with the run that it is of. */
export interface Compared {
  run: RunInfo;
  curve: AxisCurve;
}

/** A line for each run; of those with the same name the id tells them apart, and time counts from each one's start. */
export function comparedTraces(found: readonly Compared[], axis: Axis): Trace[] {
  const names = found.map(({ run }) => run.name);
  return found
    .map(({ run, curve }, i) => {
      const isAlone = names.filter((name) => name === run.name).length === 1;
      const look = { label: isAlone ? run.name : run.run_id, color: COLORS[i % COLORS.length] ?? "gray", dashed: i % 2 === 1 };
      return traceOf(curve, look, axis === "time" ? (run.started_at_s ?? run.created_at_s) : 0);
    })
    .filter(({ x }) => x.length > 0);
}

export function usableRuns(runs: readonly RunInfo[]): RunInfo[] {
  return runs.filter((run, i) => runs.findIndex(({ run_id: runId }) => runId === run.run_id) === i);
}
