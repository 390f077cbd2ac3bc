import { useFollow } from "../../api/live";
import type { RunInfo } from "../../api/schema";
import { useCurves } from "../../charts/useCurves";
import { isLive } from "../../components/RunStatus";
import type { OverviewMetrics } from "./names";
import { StatusStrip } from "./StatusStrip";

/** The strip with the newest loss: from the live stream, and of a run that has ended from its curve. */
export function RunStatusStrip({ run, metrics }: { run: RunInfo; metrics: OverviewMetrics | null }) {
  const { newest } = useFollow(run.run_id);
  const name = metrics?.loss ?? metrics?.goal ?? null;
  const { curves } = useCurves(run.run_id, {
    names: name === null ? [] : [name],
    branches: [],
    axis: "step",
    range: null,
    isLive: isLive(run.status),
  });
  const value = (name === null ? undefined : newest?.values[name]) ?? curves[0]?.mean.at(-1);
  return <StatusStrip run={run} loss={name === null || value === undefined ? null : { name, value }} />;
}
