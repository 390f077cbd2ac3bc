import { SimpleGrid, Stack, Text, Title } from "@mantine/core";
import { useMemo } from "react";

import { useBranches, useRun, useSeries } from "../../api/queries";
import type { Branches, RunInfo, SeriesInfo } from "../../api/schema";
import { namesOf, onlyBranch } from "../../charts/branchTraces";
import { useCurves } from "../../charts/useCurves";
import { useZoom, type Range } from "../../charts/zoom";
import { Loaded } from "../../components/Loaded";
import { useNothing } from "../../components/nothing";
import { Name } from "../../components/Name";
import { isLive } from "../../components/RunStatus";
import type { RunPageProps } from "../../routes";
import { useUrlRange, useUrlStates } from "../../urlState";
import { grouped } from "./groups";
import { MetricCard } from "./MetricCard";
import { MetricsControls } from "./MetricsControls";
import { scaleOf, useMetricsView } from "./useMetricsView";

/** Every metric of a run. */
export default function MetricsPage({ runId }: RunPageProps) {
  const run = useRun(runId);
  const nothing = useNothing(runId);
  const current = run.data?.branch;
  const here = useSeries(runId, current);
  const main = useSeries(runId);
  const branches = useBranches(runId);
  return (
    <Loaded query={run}>
      {(info) => (
        <Loaded query={here} height={400} empty={{ when: () => here.data?.series.length === 0 && main.data?.series.length === 0, say: nothing("measured") }}>
          {({ series }) => (
            <AllMetrics run={info} series={[...series, ...(main.data?.series ?? [])]} branches={branches.data ?? onlyBranch(info.branch)} />
          )}
        </Loaded>
      )}
    </Loaded>
  );
}

function AllMetrics({ run, series, branches }: { run: RunInfo; series: readonly SeriesInfo[]; branches: Branches }) {
  const view = useMetricsView();
  const [range, setRange] = useUrlRange("range");
  const setStates = useUrlStates();
  const there = useMemo(() => namesOf(branches), [branches]);
  const shown = view.branches.length > 0 ? view.branches : there;
  const shift = view.axis === "time" ? (run.started_at_s ?? run.created_at_s) : 0;
  const whole = useWhole(run, series, shown, view.axis, shift);
  const zoom = useZoom(whole, range, setRange);
  const scale = scaleOf(view.smoothing, whole[1] - whole[0]);
  const wanted = view.search.toLowerCase().split(/\s+/);
  const names = series.map(({ name }) => name).filter((name) => wanted.every((word) => name.toLowerCase().includes(word)));
  const groups = grouped(names, run.goal_metric);
  return (
    <Stack gap="md">
      <MetricsControls
        view={view}
        zoom={zoom}
        isZoomed={range !== null}
        branches={there}
        onAxis={(axis) => setStates({ x: axis === "step" ? "" : axis, range: "" })}
      />
      {groups.length === 0 && <Text c="dimmed">No metric has these words in its name.</Text>}
      {groups.map(({ prefix, names: all }) => (
        <section key={prefix} aria-label={`Metrics: ${prefix.slice(0, 100)}`}>
          <Title order={2} size="h5" mb={6}>
            <Name text={prefix} />{" "}
            <Text span c="dimmed" size="sm" fw={400}>
              {all.length}
            </Text>
          </Title>
          <SimpleGrid cols={{ base: 1, sm: 2, lg: 3 }} spacing="sm">
            {all.map((name) => (
              <MetricCard key={name} {...{ run, name, branches, shown, shift, zoom, range, scale }} axis={view.axis} log={view.log} />
            ))}
          </SimpleGrid>
        </section>
      ))}
      <Text size="xs" c="dimmed">
        Drag to zoom in, double-click to see all; Ctrl and wheel or two fingers zoom, Shift and drag move. Dashed lines
        are stretches that the run has left; shades show the lowest and highest of what one point stands for.
      </Text>
    </Stack>
  );
}

/** How far the axis goes: as far as the metric that was measured most often. */
function useWhole(run: RunInfo, series: readonly SeriesInfo[], branches: readonly string[], axis: "step" | "epoch" | "time" | "tokens", shift: number): Range {
  const densest = series.reduce<SeriesInfo | null>((most, one) => (most === null || one.count > most.count ? one : most), null);
  const { whole } = useCurves(run.run_id, {
    names: densest === null ? [] : [densest.name],
    branches,
    axis,
    range: null,
    isLive: isLive(run.status),
    enabled: axis !== "step",
  });
  if (axis === "step") return [0, Math.max(1, run.step, ...series.map((one) => one.last_step))];
  return whole === null ? [0, 1] : [Math.min(0, whole[0] - shift), whole[1] - shift];
}
