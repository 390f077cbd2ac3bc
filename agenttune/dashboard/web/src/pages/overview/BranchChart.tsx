import { Text } from "@mantine/core";
import { useMemo } from "react";

import type { Branches, RunInfo } from "../../api/schema";
import type { Mark, Span } from "../../charts/annotations";
import { branchTraces, namesOf, onlyBranch } from "../../charts/branchTraces";
import { cutOf } from "../../charts/outliers";
import { TraceChart } from "../../charts/TraceChart";
import { useCurves } from "../../charts/useCurves";
import type { Range, Zoom } from "../../charts/zoom";
import { Loaded } from "../../components/Loaded";
import { told } from "../../components/numbers";
import { isLive } from "../../components/RunStatus";

interface Props {
  run: RunInfo;
  branches: Branches | undefined;
  name: string;
  zoom: Zoom;
  range: Range | null;
  marks: readonly Mark[];
  spans: readonly Span[];
  height: number;
}

/** One metric over steps on all branches. */
export function BranchChart({ run, branches, name, zoom, range, marks, spans, height }: Props) {
  const known = useMemo(() => branches ?? onlyBranch(run.branch), [branches, run.branch]);
  const names = useMemo(() => namesOf(known), [known]);
  const { curves, query } = useCurves(run.run_id, { names: [name], branches: names, axis: "step", range, isLive: isLive(run.status) });
  const traces = useMemo(
    () => branchTraces(curves, known, ({ branch }) => (names.length > 1 ? `${name} on ${branch}` : name)),
    [curves, known, name, names],
  );
  const cut = useMemo(() => cutOf(curves), [curves]);
  const newest = curves.find(({ branch }) => branch === known.current)?.mean.at(-1);
  return (
    <Loaded query={query} height={height}>
      {() => (
        <>
        <TraceChart
          traces={traces}
          zoom={zoom}
          syncKey={run.run_id}
          height={height}
          xLabel="step"
          {...(cut ? { top: cut.top } : {})}
          marks={marks}
          spans={spans}
          summary={`${name} over steps, newest value ${told(newest)}`}
        />
        {cut && (
          <Text size="xs" c="dimmed">
            Cut off above {told(cut.top)}; the highest value is {told(cut.highest)}.
          </Text>
        )}
        </>
      )}
    </Loaded>
  );
}
