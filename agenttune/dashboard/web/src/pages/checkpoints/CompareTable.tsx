import { Table, Title } from "@mantine/core";

import type { Checkpoint, RunInfo } from "../../api/schema";
import { Name } from "../../components/Name";
import { compared } from "./comparison";

/** Two checkpoints that were ticked, beside each other. */
export function CompareTable({ pair: [one, other], run }: { pair: readonly [Checkpoint, Checkpoint]; run: RunInfo | undefined }) {
  const lines = compared(one, other, run?.goal_metric ?? "metric", run?.goal_direction !== "maximize");
  return (
    <div>
      <Title order={2} size="h5">
        Compared
      </Title>
      <Table.ScrollContainer minWidth={480}>
        <Table verticalSpacing={4}>
          <Table.Thead>
            <Table.Tr>
              <Table.Td />
              {[one, other].map(({ checkpoint_id: id, tag }) => (
                <Table.Th key={id} maw={220} style={{ overflow: "hidden" }}>
                  <Name text={tag ?? id} mono />
                </Table.Th>
              ))}
              <Table.Th>Difference</Table.Th>
            </Table.Tr>
          </Table.Thead>
          <Table.Tbody>
            {lines.map(({ name, one: first, other: second, difference }) => (
              <Table.Tr key={name}>
                <Table.Th scope="row" fw={500}>
                  <Name text={name} />
                </Table.Th>
                <Table.Td maw={220} style={{ overflow: "hidden" }}>
                  <Name text={first} />
                </Table.Td>
                <Table.Td maw={220} style={{ overflow: "hidden" }}>
                  <Name text={second} />
                </Table.Td>
                <Table.Td>{difference}</Table.Td>
              </Table.Tr>
            ))}
          </Table.Tbody>
        </Table>
      </Table.ScrollContainer>
    </div>
  );
}
