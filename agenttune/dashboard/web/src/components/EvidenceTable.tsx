import { Table } from "@mantine/core";

import type { FindingRead } from "../api/schema";
import { toldValue } from "./decision/words";
import { Name } from "./Name";

/** The figures that a finding rests on; nothing where it has none. */
export function EvidenceTable({ finding }: { finding: FindingRead["finding"] }) {
  return (
    <Table verticalSpacing={1} fz="sm" my={4} w="auto" aria-label={`Evidence of ${finding.kind}`}>
      <Table.Tbody>
        {Object.entries(finding.evidence ?? {}).map(([name, value]) => (
          <Table.Tr key={name}>
            <Table.Th scope="row" fw={400}>
              <Name text={name} />
            </Table.Th>
            <Table.Td ta="right">{toldValue(value)}</Table.Td>
          </Table.Tr>
        ))}
      </Table.Tbody>
    </Table>
  );
}

/** Whether there are any. */
export function hasEvidence({ evidence }: FindingRead["finding"]): boolean {
  return Object.keys(evidence ?? {}).length > 0;
}
