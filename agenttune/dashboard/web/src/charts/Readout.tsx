import { Group, Text, UnstyledButton } from "@mantine/core";
import { useState, useSyncExternalStore } from "react";

import { Name } from "../components/Name";
import { told } from "../components/numbers";
import type { Cursor } from "./cursor";
import type { Line } from "./Plot";
import type { Value } from "./traces";

interface Props {
  lines: readonly Line[];
  values: readonly (readonly Value[])[];
  cursor: Cursor;
  xFormat: (x: number) => string;
  /** Whether the scale has no place for what is not above 0. */
  log?: boolean;
  /** Where the values are of while there is no cross-hair, if that is not now. */
  restsAt?: string;
}

/** So many lines are told at once; of more, a few. */
const MOST = 8;
const FEW = 5;

/** Those told of many lines: what the run stands on before what it has left, and the newest of each. */
function fewOf(named: readonly number[], lines: readonly Line[]): number[] {
  const standing = named.filter((i) => !lines[i]?.dashed);
  const left = named.filter((i) => lines[i]?.dashed);
  const kept = standing.slice(-FEW);
  return [...kept, ...left.slice(left.length - Math.min(left.length, FEW - kept.length))];
}

/** Which line is which, with its value under the cross-hair, else its newest. */
export function Readout({ lines, values, cursor, xFormat, log = false, restsAt }: Props) {
  const [isAll, setAll] = useState(false);
  const named = lines.flatMap((line, i) => (line.quiet || line.faint ? [] : [i]));
  const shown = new Set(isAll || named.length <= MOST ? named : fewOf(named, lines));
  const at = useSyncExternalStore(cursor.subscribe, () => cursor.at);
  return (
    <Group gap="0 16px" miw={0} fz="sm" mih={22}>
      {lines.map((line, i) => {
        if (!shown.has(i)) return null;
        const value = at === null ? values[i]?.findLast((one) => one !== undefined) : at.values[i];
        return (
          <Group key={line.label} gap={6} wrap="nowrap" miw={0} maw={320}>
            <svg width="18" height="4" aria-hidden style={{ flex: "none" }}>
              <line x1="0" x2="18" y1="2" y2="2" stroke={line.color} strokeWidth="3" strokeDasharray={line.dashed ? "5 3" : undefined} />
            </svg>
            <Text span inherit truncate="end">
              <Name text={line.label} />
            </Text>
            <Text span inherit fw={600}>
              {value === null ? (log ? "none above 0" : "no number") : told(value)}
            </Text>
          </Group>
        );
      })}
      {named.length > MOST && (
        <UnstyledButton fz="sm" c="dimmed" td="underline" aria-expanded={isAll} onClick={() => setAll(!isAll)}>
          {isAll ? "only a few" : `${named.length - shown.size} more lines`}
        </UnstyledButton>
      )}
      {(at !== null || restsAt) && (
        <Text span inherit c="dimmed">
          at {at === null ? restsAt : xFormat(at.x)}
        </Text>
      )}
    </Group>
  );
}
