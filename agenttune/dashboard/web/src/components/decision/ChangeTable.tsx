import { Table } from "@mantine/core";

import type { Change } from "../../api/schema";
import { Name } from "../Name";
import { toldValue } from "./words";

interface Row {
  name: string;
  before: string;
  asked: string;
  now: string;
}

/**
 * A change, line by line. A learning rate that a schedule scales has two: its base, which is what a command of the base
 * asks for, and what the optimizer uses at this step.
 */
export function rowsOf({ name, unit, previous, requested, effective, previous_base: previousBase, base }: Change): Row[] {
  const title = unit ? `${name} (${unit})` : name;
  const asked = toldValue(requested);
  if (typeof base !== "number" || base === effective) return [{ name: title, before: toldValue(previous), asked, now: toldValue(effective) }];
  const setsBase = requested === base;
  return [
    { name: `${title}, base`, before: toldValue(previousBase), asked: setsBase ? asked : "", now: toldValue(base) },
    { name: `${title}, at this step`, before: toldValue(previous), asked: setsBase ? "" : asked, now: toldValue(effective) },
  ];
}

/** The values that a command changed, as the trainer read them back. */
export function ChangeTable({ changes }: { changes: readonly Change[] }) {
  return (
    <Table.ScrollContainer minWidth={260}>
      <Table verticalSpacing={2} horizontalSpacing="xs" fz="sm">
        <Table.Thead>
          <Table.Tr>
            <Table.Th>Value</Table.Th>
            <Table.Th ta="right">Before</Table.Th>
            <Table.Th ta="right">Asked for</Table.Th>
            <Table.Th ta="right">In use</Table.Th>
          </Table.Tr>
        </Table.Thead>
        <Table.Tbody>
          {changes.flatMap(rowsOf).map(({ name, before, asked, now }) => (
            <Table.Tr key={name}>
              <Table.Th scope="row" fw={400}>
                <Name text={name} />
              </Table.Th>
              <Table.Td ta="right">{before}</Table.Td>
              <Table.Td ta="right">{asked}</Table.Td>
              <Table.Td ta="right" fw={600}>
                {now}
              </Table.Td>
            </Table.Tr>
          ))}
        </Table.Tbody>
      </Table>
    </Table.ScrollContainer>
  );
}
