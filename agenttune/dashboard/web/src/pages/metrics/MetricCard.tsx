import { ActionIcon, Group, Menu, Paper, Text, Title } from "@mantine/core";
import { useInViewport } from "@mantine/hooks";
import { notifications } from "@mantine/notifications";
import { useMemo, useRef } from "react";
import type uPlot from "uplot";

import { answerOf, sentenceOf, server } from "../../api/client";
import type { Branches, RunInfo } from "../../api/schema";
import { branchTraces } from "../../charts/branchTraces";
import { axisFormat, csvOf, download, pngOf } from "../../charts/download";
import { TraceChart } from "../../charts/TraceChart";
import { plotted } from "../../charts/traces";
import { stepsWithin, useCurves, type Axis } from "../../charts/useCurves";
import type { Range, Zoom } from "../../charts/zoom";
import { Loaded } from "../../components/Loaded";
import { Name } from "../../components/Name";
import { told, toldDuration } from "../../components/numbers";
import { isLive } from "../../components/RunStatus";

const HEIGHT = 190;
const MOST_ROWS = 10_000;

interface Props {
  run: RunInfo;
  name: string;
  branches: Branches;
  shown: readonly string[];
  axis: Axis;
  /** Where the axis begins: what is drawn is that much less than what the server says. */
  shift: number;
  zoom: Zoom;
  range: Range | null;
  log: boolean;
  scale: number;
}

/** One metric. It asks for nothing before it is on screen. */
export function MetricCard({ run, name, branches, shown, axis, shift, zoom, range, log, scale }: Props) {
  const { ref, inViewport } = useInViewport<HTMLDivElement>();
  const plot = useRef<uPlot | null>(null);
  const wanted = { names: [name], branches: shown, axis, range, shift, isLive: isLive(run.status), enabled: inViewport };
  const { curves, query } = useCurves(run.run_id, wanted);
  const label = shown.length > 1 ? "branch" : "name";
  const traces = useMemo(() => branchTraces(curves, branches, (curve) => curve[label], shift), [curves, branches, label, shift]);
  const broken = curves.reduce((sum, { nonfinite }) => sum + nonfinite.reduce((a, b) => a + b, 0), 0);
  const xFormat = useMemo(() => axisFormat(axis, toldDuration), [axis]);
  const save = async (kind: "png" | "csv") => {
    try {
      if (kind === "csv") download(`${run.run_id}-${name}.csv`, new Blob([await readCsv()], { type: "text/csv" }));
      else if (plot.current) download(`${run.run_id}-${name}.png`, await pngOf(plot.current, `${name}, ${run.name}`, plotted(traces).lines));
      else notifications.show({ color: "yellow", message: "There is no picture yet: the curve was not drawn." });
    } catch (error) {
      notifications.show({ color: "red", message: sentenceOf(error) });
    }
  };
  const readCsv = async () => {
    const steps = range === null ? null : stepsWithin(curves.length > 0 ? curves : await readCurves(null), [range[0] + shift, range[1] + shift]);
    return csvOf(await readCurves(steps), { axis, range, shift });
  };
  const readCurves = async (steps: Range | null) => {
    const within = steps === null ? {} : { first_step: steps[0], last_step: steps[1] };
    const query = { name: [name], branch: [...shown], axis, max_points: MOST_ROWS, ...within };
    return (await answerOf(server.GET("/api/v1/runs/{run_id}/curves", { params: { path: { run_id: run.run_id }, query } }))).curves;
  };
  return (
    <Paper withBorder p="xs" ref={ref} mih={HEIGHT + 60} miw={0}>
      <Group justify="space-between" wrap="nowrap" gap="xs">
        <Title order={3} size="sm" style={{ minWidth: 0, overflow: "hidden" }}>
          <Name text={name} />
        </Title>
        <Menu position="bottom-end" withinPortal>
          <Menu.Target>
            <ActionIcon variant="subtle" color="gray" size="sm" aria-label={`Save ${name.slice(0, 200)}`} title="Save">
              ⤓
            </ActionIcon>
          </Menu.Target>
          <Menu.Dropdown>
            <Menu.Item onClick={() => void save("png")}>Save as a picture (PNG)</Menu.Item>
            <Menu.Item onClick={() => void save("csv")}>Save what is shown as rows (CSV)</Menu.Item>
          </Menu.Dropdown>
        </Menu>
      </Group>
      {(inViewport || query.data) && (
        <Loaded query={query} height={HEIGHT} empty={{ when: (found) => found.curves.length === 0, say: "Not measured on these branches." }}>
          {() => (
            <TraceChart
              traces={traces}
              zoom={zoom}
              syncKey={`metrics-${run.run_id}`}
              height={HEIGHT}
              log={log}
              scale={scale}
              xLabel={axis}
              xFormat={xFormat}
              onMade={(made) => {
                plot.current = made;
              }}
              summary={`${name} over ${axis}, newest value ${told(curves.at(-1)?.mean.at(-1))}`}
            />
          )}
        </Loaded>
      )}
      {broken > 0 && (
        <Text size="xs" c="red">
          ✕ {told(broken)} {broken === 1 ? "value is" : "values are"} not finite
        </Text>
      )}
    </Paper>
  );
}
