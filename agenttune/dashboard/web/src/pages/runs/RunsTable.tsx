import { Box, Table } from "@mantine/core";
import { useVirtualizer } from "@tanstack/react-virtual";
import { useEffect, useRef } from "react";

import type { RunOverview } from "../../api/schema";
import { RunRow } from "./RunRow";

const ROW_PX = 57;
const OVERSCAN = 8;
/** Each with its share of the width: a browser that has to look into every row for it cannot scroll smoothly. */
const COLUMNS: readonly (readonly [name: string, px: number])[] = [
  ["", 40],
  ["Run", 240],
  ["State", 120],
  ["Waiting", 90],
  ["Progress", 140],
  ["Goal", 230],
  ["Branch", 90],
  ["Policy", 100],
  ["Cost", 70],
  ["Started", 130],
];

interface Props {
  total: number;
  row: (index: number) => RunOverview | undefined;
  chosen: readonly string[];
  onChoose: (runId: string, chosen: boolean) => void;
  onTag: (run: RunOverview) => void;
  onSeen: (first: number, last: number) => void;
}

/** The list in a box of its own; only rows that are on screen are in the page. */
export function RunsTable({ total, row, chosen, onChoose, onTag, onSeen }: Props) {
  const box = useRef<HTMLDivElement>(null);
  // eslint-disable-next-line react-hooks/incompatible-library
  const rows = useVirtualizer({
    count: total,
    getScrollElement: () => box.current,
    estimateSize: () => ROW_PX,
    overscan: OVERSCAN,
  });
  const items = rows.getVirtualItems();
  const [first, last] = [items[0]?.index ?? 0, items.at(-1)?.index ?? 0];
  useEffect(() => onSeen(first, last), [first, last, onSeen]);
  const above = items[0]?.start ?? 0;
  const below = rows.getTotalSize() - (items.at(-1)?.end ?? 0);
  return (
    <Box ref={box} tabIndex={0} role="region" aria-label="Runs" mah="calc(100dvh - 190px)" style={{ overflow: "auto" }}>
      <Table stickyHeader verticalSpacing={6} miw={1100} layout="fixed" aria-rowcount={total + 1} highlightOnHover>
        <colgroup>
          {COLUMNS.map(([name, px]) => (
            <col key={name} style={{ width: px }} />
          ))}
        </colgroup>
        <Table.Thead>
          <Table.Tr aria-rowindex={1}>
            {COLUMNS.map(([name]) => (
              <Table.Th key={name} ta={name === "Cost" ? "right" : "left"}>
                {name || <span className="only-heard">Choose</span>}
              </Table.Th>
            ))}
          </Table.Tr>
        </Table.Thead>
        <Table.Tbody>
          <Space height={above} />
          {items.map(({ index }) => {
            const run = row(index);
            const place = index + 2;
            return run ? (
              <RunRow key={index} run={run} place={place} isChosen={chosen.includes(run.run_id)} onChoose={onChoose} onTag={onTag} />
            ) : (
              <tr key={index} aria-rowindex={place} style={{ height: ROW_PX }}>
                <td colSpan={COLUMNS.length} style={{ padding: "0 10px", color: "var(--mantine-color-dimmed)" }}>
                  Loading…
                </td>
              </tr>
            );
          })}
          <Space height={below} />
        </Table.Tbody>
      </Table>
    </Box>
  );
}

/** Stands for the rows that are not on screen. */
function Space({ height }: { height: number }) {
  if (height <= 0) return null;
  return (
    <tr aria-hidden>
      <td colSpan={COLUMNS.length} style={{ height, padding: 0, border: 0 }} />
    </tr>
  );
}
