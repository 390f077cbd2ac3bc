import { asNumber, type Metric } from "./numbers";

const WIDTH = 80;
const HEIGHT = 24;
const INSET = 2;
/** All of it is within: a box that cuts nothing off is painted with what is around it. */
const STYLE = { display: "block", flexShrink: 0, overflow: "visible" } as const;

/** Straight lines through values, over their steps; broken where one is not finite. */
export function sparkPaths(steps: readonly number[], values: readonly Metric[]): string[] {
  const numbers = values.map((value) => asNumber(value) ?? NaN);
  const finite = numbers.filter(Number.isFinite);
  const [low, high] = [Math.min(...finite), Math.max(...finite)];
  const first = steps[0] ?? 0;
  const span = (steps.at(-1) ?? first) - first || 1;
  const paths: string[] = [];
  let open = "";
  numbers.forEach((value, i) => {
    if (!Number.isFinite(value)) {
      if (open) paths.push(open);
      open = "";
      return;
    }
    const x = INSET + (((steps[i] ?? first) - first) / span) * (WIDTH - 2 * INSET);
    const share = high > low ? (value - low) / (high - low) : 0.5;
    const y = HEIGHT - INSET - share * (HEIGHT - 2 * INSET);
    open += `${open ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`;
  });
  if (open) paths.push(open);
  return paths;
}

/** The course of a metric at a glance; the figures stand beside it. */
export function Spark({ steps, values }: { steps: readonly number[]; values: readonly Metric[] }) {
  return (
    <svg width={WIDTH} height={HEIGHT} aria-hidden style={STYLE}>
      {sparkPaths(steps, values).map((d) => (
        <path key={d} d={d} fill="none" stroke="var(--mantine-primary-color-filled)" strokeWidth={1.5} strokeLinecap="round" />
      ))}
    </svg>
  );
}
