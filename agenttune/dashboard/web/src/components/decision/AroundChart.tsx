import { Text } from "@mantine/core";
import { useMemo, useState } from "react";

import type { Around } from "../../api/schema";
import { Cursor } from "../../charts/cursor";
import { cutOf } from "../../charts/outliers";
import { Plot } from "../../charts/Plot";
import { Readout } from "../../charts/Readout";
import { Name } from "../Name";
import { told, type Metric } from "../numbers";
import { beyond, drawnAround, WITH_COLOR, withRoom } from "./aroundChart";

/** The curve before and after a change, against where it was going without it. */
export function AroundChart({ around, step, height = 170 }: { around: Around; step: number; height?: number }) {
  const drawn = useMemo(() => withRoom(drawnAround(around), step), [around, step]);
  const spans = useMemo(() => beyond(around), [around]);
  const marks = useMemo(() => [{ at: step, color: WITH_COLOR, strong: true }], [step]);
  const cut = useMemo(() => cutOf([{ mean: valuesOf(around) }]), [around]);
  const [cursor] = useState(() => new Cursor());
  if (drawn.x.length < 2) return null;
  return (
    <div>
      <Text size="sm" fw={600} component="div">
        <Name text={around.metric} />
        {around.is_goal ? " (the goal)" : ""}
      </Text>
      <Readout lines={drawn.lines} values={drawn.values} cursor={cursor} xFormat={(x) => `step ${told(Math.round(x))}`} />
      <Plot {...drawn} cursor={cursor} marks={marks} spans={spans} height={height} xLabel="step" summary={summaryOf(around, step)} {...(cut ? { top: cut.top } : {})} />
      {cut && (
        <Text size="xs" c="dimmed">
          Cut off above {told(cut.top)}; the highest value is {told(cut.highest)}.
        </Text>
      )}
      {spans.length > 0 && (
        <Text size="xs" c="dimmed">
          Grey: after step {told(around.until_step)} something else was changed too.
        </Text>
      )}
    </div>
  );
}

function valuesOf({ before, after, undone = [] }: Around): Metric[] {
  return [...before, ...after, ...undone].map(({ value }) => value);
}

function summaryOf({ metric, after, expected = [] }: Around, step: number): string {
  const end = after.at(-1);
  const likely = expected.at(-1);
  const went = end ? `, then to ${told(end.value)} at step ${end.step}` : "";
  const without = likely ? `; ${told(likely.likely)} was to be expected without the change` : "";
  return `${metric} up to the change at step ${step}${went}${without}`;
}
