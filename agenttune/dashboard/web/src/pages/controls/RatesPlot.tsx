import { Text } from "@mantine/core";
import { lazy, Suspense, useState } from "react";

import type { RatesAhead } from "../../api/schema";
import { Cursor } from "../../charts/cursor";
import { Readout } from "../../charts/Readout";
import { asNumber, told } from "../../components/numbers";

const Plot = lazy(() => import("../../charts/Plot").then(({ Plot: found }) => ({ default: found })));
const COLORS = ["#4c8bf5", "#e8833a", "#2f9e6e", "#b05fd0"];
const MOST_GROUPS = 4;

interface Props {
  rates: readonly RatesAhead[];
  /** Whether there is a command to compare with; else what comes is drawn as it stands, and no more. */
  isPlan?: boolean;
}

/** The learning rates to come, as things are (dashed) and with a command (solid). */
export function RatesPlot({ rates, isPlan = true }: Props) {
  const [cursor] = useState(() => new Cursor());
  // Groups that share their steps are drawn together; all of a command do.
  const [first] = rates;
  if (first === undefined) return null;
  const drawn = rates.filter(({ steps }) => steps.length === first.steps.length).slice(0, MOST_GROUPS);
  const finite = (values: readonly (number | string)[]) =>
    values.map((value) => asNumber(value)).map((value) => (value !== null && Number.isFinite(value) ? value : null));
  const then = isPlan ? " with this command" : "";
  const summary = `Learning rate from step ${told(first.steps[0])} to ${told(first.steps.at(-1))}: ${drawn
    .map(({ group, after }) => `group ${group} from ${told(after[0])} to ${told(after.at(-1))}${then}`)
    .join("; ")}.`;
  const lines = drawn.flatMap(({ group }, index) => {
    const color = COLORS[index % COLORS.length] ?? "#4c8bf5";
    const after = { label: `group ${group}${then}`, color, width: 2 };
    return isPlan ? [{ label: `group ${group} as it stands`, color, dashed: true }, after] : [after];
  });
  const values = drawn.flatMap(({ before, after }) => (isPlan ? [finite(before), finite(after)] : [finite(after)]));
  return (
    <>
      <Readout lines={lines} values={values} cursor={cursor} xFormat={(x) => `step ${told(x)}`} restsAt={`the end, step ${told(first.steps.at(-1))}`} />
      <Suspense fallback={null}>
        <Plot x={first.steps} values={values} lines={lines} cursor={cursor} height={180} summary={summary} xLabel="step" />
      </Suspense>
      {rates.length > drawn.length && (
        <Text size="xs" c="dimmed">
          The first {drawn.length} of {rates.length} parameter groups are drawn.
        </Text>
      )}
    </>
  );
}
