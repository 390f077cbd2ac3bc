import { Group, Stack, Text, Title } from "@mantine/core";
import { useQueries } from "@tanstack/react-query";

import { curveOptions, useRun, useSeries } from "../../api/queries";
import { Plot } from "../../charts/Plot";
import { Fault } from "../../components/Fault";
import { Name } from "../../components/Name";
import { told } from "../../components/numbers";
import { joined, lossesBySource } from "./sources";

const COLORS = ["#4c6ef5", "#e8590c", "#2f9e44", "#ae3ec9", "#0c8599", "#c2255c", "#846358", "#e67700"];
const MOST = COLORS.length;

/** The training loss of each source of the mixture. */
export function SourceLosses({ runId, sources }: { runId: string; sources: readonly string[] }) {
  const series = useSeries(runId);
  const branch = useRun(runId).data?.branch ?? "main";
  const metrics = lossesBySource(series.data?.series.map(({ name }) => name) ?? [], sources);
  const shown = metrics.slice(0, MOST);
  const curves = useQueries({ queries: shown.map(({ metric }) => curveOptions(runId, { name: metric, branch, maxPoints: 500 })) });
  const failed = curves.find(({ isError }) => isError);
  const { x, values } = joined(curves.map(({ data }) => data));
  return (
    <Stack gap="xs">
      <Title order={3} size="h5">
        Loss of each source
      </Title>
      {shown.length === 0 ? (
        <Text size="sm" c="dimmed">
          There is no loss by source in the log: the trainer measures it for a mixture, and only where it can tell one
          sample&apos;s loss.
        </Text>
      ) : failed ? (
        <Fault error={failed.error} onRetry={() => void failed.refetch()} />
      ) : (
        <>
          <Group gap="md">
            {shown.map(({ source }, at) => (
              <Group key={source} gap={6} wrap="nowrap" maw={260} style={{ overflow: "hidden" }}>
                <svg width="18" height="4" aria-hidden style={{ flex: "none" }}>
                  <line x1="0" x2="18" y1="2" y2="2" stroke={COLORS[at]} strokeWidth="3" strokeDasharray={at % 2 ? "5 3" : undefined} />
                </svg>
                <Text size="sm" component="span" style={{ overflow: "hidden" }}>
                  <Name text={source} /> {told(values[at]?.findLast((value) => value !== null))}
                </Text>
              </Group>
            ))}
            {metrics.length > MOST && <Text size="sm">and {metrics.length - MOST} more under Metrics</Text>}
          </Group>
          {x.length > 0 && (
            <Plot
              x={x}
              values={values}
              lines={shown.map(({ source }, at) => ({ label: source, color: COLORS[at] ?? "gray", dashed: at % 2 === 1 }))}
              height={220}
              xLabel="step"
              summary={`Training loss of ${shown.length} sources over steps`}
            />
          )}
        </>
      )}
    </Stack>
  );
}
