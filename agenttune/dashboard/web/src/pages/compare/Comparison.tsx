import { Paper, Select, Stack, Text } from "@mantine/core";
import { useMemo } from "react";

import { TraceChart } from "../../charts/TraceChart";
import { axisFormat } from "../../charts/download";
import { useZoom } from "../../charts/zoom";
import { sentenceOf } from "../../api/client";
import { toldDuration } from "../../components/numbers";
import { useUrlRange, useUrlState, useUrlStates } from "../../urlState";
import { MetricsControls } from "../metrics/MetricsControls";
import { AXES, scaleOf, useMetricsView } from "../metrics/useMetricsView";
import { RunsTold } from "./RunsTold";
import { comparedTraces, usableRuns } from "./compared";
import { useCompared, useComparedSeries } from "./useCompared";

const ALIGNED = AXES.filter(({ value }) => value !== "epoch");

/** One metric of several runs, aligned by step, by time since each began, or by tokens. */
export function Comparison({ runIds }: { runIds: readonly string[] }) {
  const view = useMetricsView();
  const [chosen, setChosen] = useUrlState("metric");
  const [range, setRange] = useUrlRange("range");
  const setStates = useUrlStates();
  const { runs, names, errors } = useComparedSeries(runIds);
  const goal = runs[0]?.goal_metric ?? "";
  const metric = names.includes(chosen) ? chosen : (names.find((name) => name === goal || name === `eval_${goal}`) ?? names[0] ?? "");
  const { found, isLoading, problems } = useCompared(runs, metric, view.axis);
  const traces = useMemo(() => comparedTraces(found, view.axis), [found, view.axis]);
  const end = Math.max(1, ...traces.map(({ x }) => x.at(-1) ?? 0));
  const zoom = useZoom([0, end], range, setRange);
  const xFormat = useMemo(() => axisFormat(view.axis, toldDuration), [view.axis]);
  const wanted = view.search.toLowerCase();
  return (
    <Stack gap="sm">
      <MetricsControls
        view={view}
        zoom={zoom}
        isZoomed={range !== null}
        axes={ALIGNED}
        onAxis={(axis) => setStates({ x: axis === "step" ? "" : axis, range: "" })}
      />
      <Select
        aria-label="Metric"
        data={names.filter((name) => name.toLowerCase().includes(wanted) || name === metric)}
        value={metric || null}
        onChange={(value) => setChosen(value ?? "")}
        searchable
        allowDeselect={false}
        maw={360}
      />
      {[...errors, ...problems].map(({ runId, error }) => (
        <Text key={runId} size="sm" c="red" role="alert">
          {runId}: {sentenceOf(error)}
        </Text>
      ))}
      <Paper withBorder p="sm">
        {traces.length > 0 ? (
          <TraceChart
            traces={traces}
            zoom={zoom}
            height={380}
            log={view.log}
            scale={scaleOf(view.smoothing, end)}
            xLabel={view.axis === "time" ? "time since the start" : view.axis}
            xFormat={xFormat}
            summary={`${metric} of ${traces.length} runs over ${view.axis}`}
          />
        ) : (
          <Text c="dimmed" mih={200}>
            {isLoading ? "The curves are being read." : "None of these runs has measured this on this axis."}
          </Text>
        )}
      </Paper>
      <RunsTold runs={usableRuns(runs)} metric={metric} found={found} />
    </Stack>
  );
}
