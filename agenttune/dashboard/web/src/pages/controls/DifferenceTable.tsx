import { Table } from "@mantine/core";

import type { Difference } from "../../api/schema";
import { toldValue } from "../../components/decision/words";
import { Name } from "../../components/Name";

/** What a command would change, value by value. */
export function DifferenceTable({ differences }: { differences: readonly Difference[] }) {
  return (
    <Table.ScrollContainer minWidth={240}>
      <Table verticalSpacing={4} horizontalSpacing="xs" fz="sm">
        <Table.Thead>
          <Table.Tr>
            <Table.Th>What</Table.Th>
            <Table.Th ta="right">Before</Table.Th>
            <Table.Th ta="right">After</Table.Th>
          </Table.Tr>
        </Table.Thead>
        <Table.Tbody>
          {differences.map(({ name, before, after }) => (
            <Table.Tr key={name}>
              <Table.Th scope="row" fw={400}>
                <Name text={name} />
              </Table.Th>
              <Table.Td ta="right">{before === null ? "not known" : toldValue(before)}</Table.Td>
              <Table.Td ta="right" fw={700}>
                {toldValue(after)}
                <Factor before={before} after={after} />
              </Table.Td>
            </Table.Tr>
          ))}
        </Table.Tbody>
      </Table>
    </Table.ScrollContainer>
  );
}

function Factor({ before, after }: { before: unknown; after: unknown }) {
  if (typeof before !== "number" || typeof after !== "number" || before <= 0 || after <= 0 || before === after) return null;
  return <span style={{ fontWeight: 400 }}> (×{Number((after / before).toPrecision(3))})</span>;
}
