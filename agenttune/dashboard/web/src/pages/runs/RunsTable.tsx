import { useMediaQuery } from "@mantine/hooks";
import { useVirtualizer } from "@tanstack/react-virtual";
import { useEffect, useRef, type CSSProperties } from "react";

import type { RunOverview } from "../../api/schema";
import { RunRow } from "./RunRow";
import css from "./RunRow.module.css";

const ROW_PX = 57;
/** On a phone: as in the style sheet. */
const CARD_PX = 154;
const PHONE = "(max-width: 48em)";
const OVERSCAN = 6;
/** Each with its share of the width: a browser that has to look into every row for it cannot scroll smoothly. */
const COLUMNS: readonly (readonly [name: string, px: number])[] = [
  ["", 40],
  ["Run", 205],
  ["State", 120],
  ["Waiting", 90],
  ["Progress", 150],
  ["Goal", 260],
  ["Branch", 80],
  ["Policy", 90],
  ["Cost", 70],
  ["Started", 135],
];
/** Custom properties are no part of React's type of a style. */
const COLUMN_WIDTHS = { "--columns": COLUMNS.map(([, px]) => `minmax(0, ${px}fr)`).join(" ") } as CSSProperties;

interface Props {
  total: number;
  row: (index: number) => RunOverview | undefined;
  chosen: readonly string[];
  onChoose: (runId: string, chosen: boolean) => void;
  onTag: (run: RunOverview) => void;
  onSeen: (first: number, last: number) => void;
}

/**
 * The list in a box of its own; only rows that are on screen are in the page.
 *
 * Not a `<table>`, which a browser lays out and paints as a whole whenever a row comes or goes: each row stands at its
 * place by itself, so that scrolling costs only the rows that come into sight.
 */
export function RunsTable({ total, row, chosen, onChoose, onTag, onSeen }: Props) {
  const box = useRef<HTMLDivElement>(null);
  const rowPx = useMediaQuery(PHONE, undefined, { getInitialValueInEffect: false }) ? CARD_PX : ROW_PX;
  // eslint-disable-next-line react-hooks/incompatible-library
  const rows = useVirtualizer({
    count: total,
    getScrollElement: () => box.current,
    estimateSize: () => rowPx,
    overscan: OVERSCAN,
  });
  useEffect(() => rows.measure(), [rows, rowPx]);
  const items = rows.getVirtualItems();
  const [first, last] = [items[0]?.index ?? 0, items.at(-1)?.index ?? 0];
  useEffect(() => onSeen(first, last), [first, last, onSeen]);
  return (
    <div ref={box} tabIndex={0} role="region" aria-label="Runs" className={css.box} style={COLUMN_WIDTHS}>
      <div role="table" aria-label="Runs" aria-rowcount={total + 1} className={css.table}>
        <div role="rowgroup" className={css.head}>
          <div role="row" aria-rowindex={1} className={css.titles}>
            {COLUMNS.map(([name]) => (
              <div key={name} role="columnheader" className={name === "Cost" ? css.right : undefined}>
                {name || <span className="only-heard">Choose</span>}
              </div>
            ))}
          </div>
        </div>
        <div role="rowgroup" className={css.rows} style={{ height: rows.getTotalSize() }}>
          {items.map(({ index, start }) => {
            const run = row(index);
            const place = index + 2;
            return run ? (
              <RunRow key={run.run_id} run={run} place={place} top={start} isChosen={chosen.includes(run.run_id)} onChoose={onChoose} onTag={onTag} />
            ) : (
              <div key={index} role="row" aria-rowindex={place} className={css.coming} style={{ top: start }}>
                <div role="cell">Loading…</div>
              </div>
            );
          })}
        </div>
      </div>
    </div>
  );
}
