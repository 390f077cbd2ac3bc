import { Stack, Table, Text, Title } from "@mantine/core";

import { useCommands, useRun } from "../../api/queries";
import { Plot } from "../../charts/Plot";
import { Loaded } from "../../components/Loaded";
import { useNothing } from "../../components/nothing";
import { told } from "../../components/numbers";
import { measuredOf, sampledCourse, sampledLayers, type Course, type Measured } from "./norms";
import { useWeightLooks } from "./useWeightLooks";

const RECENT = 8;

/** How a layer's weights move over time, and what was measured of it when somebody asked. */
export function LayerNorms({ runId, layer }: { runId: string; layer: string }) {
  const looks = useWeightLooks(runId);
  const nothing = useNothing(runId);
  const branch = useRun(runId).data?.branch ?? "main";
  const measured = measuredOf(useCommands(runId).data?.commands ?? [], layer);
  return (
    <Stack gap="xs">
      <Title order={3} size="h5">
        Norms over time
      </Title>
      <Loaded query={looks}>
        {({ events }) => {
          const { rms, ratio } = sampledCourse(events, layer, branch);
          if (rms.steps.length === 0) return <NotSampled layers={sampledLayers(events)} nothing={nothing("weights")} />;
          return (
            <>
              <Curve course={rms} title="Size of the weights (root mean square of a sample)" />
              <Curve course={ratio} title="Size of one step's update over that of the weights" />
            </>
          );
        }}
      </Loaded>
      {measured.length > 0 && <MeasuredTable measured={measured.slice(-RECENT)} />}
    </Stack>
  );
}

function NotSampled({ layers, nothing }: { layers: string[]; nothing: string }) {
  return (
    <Text size="sm" c="dimmed">
      {layers.length === 0
        ? nothing
        : "The trainer samples the weights of the innermost layers that have any; choose one of those."}
    </Text>
  );
}

function Curve({ course, title }: { course: Course; title: string }) {
  return (
    <div>
      <Text size="sm">{title}</Text>
      <Plot x={course.steps} values={[course.values]} lines={[{ label: title, color: "#4c6ef5" }]} height={150} xLabel="step" summary={`${title}: now ${told(course.values.at(-1))}, at first ${told(course.values[0])}`} />
    </div>
  );
}

function MeasuredTable({ measured }: { measured: Measured[] }) {
  return (
    <Table captionSide="top" withRowBorders={false} verticalSpacing={2}>
      <Table.Caption>Measured when somebody asked</Table.Caption>
      <Table.Thead>
        <Table.Tr>
          <Table.Th ta="right">Step</Table.Th>
          <Table.Th ta="right">Weights</Table.Th>
          <Table.Th ta="right">Last gradient</Table.Th>
        </Table.Tr>
      </Table.Thead>
      <Table.Tbody>
        {measured.map(({ step, weight, grad }, at) => (
          <Table.Tr key={at}>
            <Table.Td ta="right">{told(step)}</Table.Td>
            <Table.Td ta="right">{told(weight)}</Table.Td>
            <Table.Td ta="right">{told(grad)}</Table.Td>
          </Table.Tr>
        ))}
      </Table.Tbody>
    </Table>
  );
}
