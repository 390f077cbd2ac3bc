import { Anchor, Table } from "@mantine/core";
import { Link } from "wouter";

import type { RunInfo } from "../../api/schema";
import { Name } from "../../components/Name";
import { asNumber, told } from "../../components/numbers";
import { RunStatus } from "../../components/RunStatus";
import { pathOf } from "../../routes";
import type { Compared } from "./compared";

/** What each of the compared runs came to. */
export function RunsTold({ runs, metric, found }: { runs: readonly RunInfo[]; metric: string; found: readonly Compared[] }) {
  return (
    <Table.ScrollContainer minWidth={620}>
      <Table verticalSpacing={6} fz="sm">
        <Table.Thead>
          <Table.Tr>
            <Table.Th>Run</Table.Th>
            <Table.Th>State</Table.Th>
            <Table.Th ta="right">Step</Table.Th>
            <Table.Th ta="right">Newest</Table.Th>
            <Table.Th ta="right">Lowest</Table.Th>
            <Table.Th ta="right">Highest</Table.Th>
          </Table.Tr>
        </Table.Thead>
        <Table.Tbody>
          {runs.map((run) => {
            const curve = found.find((one) => one.run.run_id === run.run_id && one.curve.name === metric)?.curve;
            return (
              <Table.Tr key={run.run_id}>
                <Table.Td maw={280}>
                  <Anchor component={Link} href={pathOf(run.run_id)} size="sm">
                    <Name text={run.run_id} />
                  </Anchor>
                </Table.Td>
                <Table.Td>
                  <RunStatus status={run.status} />
                </Table.Td>
                <Table.Td ta="right">{told(run.step)}</Table.Td>
                <Table.Td ta="right">{told(curve?.mean.at(-1))}</Table.Td>
                <Table.Td ta="right">{told(end(curve?.low, Math.min))}</Table.Td>
                <Table.Td ta="right">{told(end(curve?.high, Math.max))}</Table.Td>
              </Table.Tr>
            );
          })}
        </Table.Tbody>
      </Table>
    </Table.ScrollContainer>
  );
}

function end(values: readonly (number | string)[] | undefined, of: (...values: number[]) => number): number | null {
  const finite = (values ?? []).map(asNumber).filter((value): value is number => value !== null && Number.isFinite(value));
  return finite.length > 0 ? of(...finite) : null;
}
