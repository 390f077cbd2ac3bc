import { lazy, Suspense } from "react";

import type { RatesAhead } from "../../api/schema";
import { asNumber, told } from "../../components/numbers";

const Plot = lazy(() => import("../../charts/Plot").then(({ Plot: found }) => ({ default: found })));
const COLORS = ["#4c8bf5", "#e8833a", "#2f9e6e", "#b05fd0"];
const MOST_GROUPS = 4;

/** The learning rates to come, as things are (dashed) and with a command (solid). */
export function RatesPlot({ rates }: { rates: readonly RatesAhead[] }) {
  // Groups that share their steps are drawn together; all of a command do.
  const [first] = rates;
  if (first === undefined) return null;
  const drawn = rates.filter(({ steps }) => steps.length === first.steps.length).slice(0, MOST_GROUPS);
  const finite = (values: readonly (number | string)[]) =>
    values.map((value) => asNumber(value)).map((value) => (value !== null && Number.isFinite(value) ? value : null));
  const summary = `Learning rate from step ${told(first.steps[0])} to ${told(first.steps.at(-1))}: ${drawn
    .map(({ group, after }) => `group ${group} from ${told(after[0])} to ${told(after.at(-1))} with this command`)
    .join("; ")}.`;
  return (
    <Suspense fallback={null}>
      <Plot
        x={first.steps}
        values={drawn.flatMap(({ before, after }) => [finite(before), finite(after)])}
        lines={drawn.flatMap(({ group }, index) => {
          const color = COLORS[index % COLORS.length] ?? "#4c8bf5";
          return [
            { label: `group ${group} as it stands`, color, dashed: true },
            { label: `group ${group} with this command`, color, width: 2 },
          ];
        })}
        height={180}
        summary={summary}
        xLabel="step"
      />
    </Suspense>
  );
}
