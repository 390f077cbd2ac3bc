import { asNumber, type Metric } from "../../components/numbers";

const PREFIX = "loss/";

export interface SourceLoss {
  source: string;
  metric: string;
}

/** The metrics that hold the loss of a source; those of sources that the mixture has now come first. */
export function lossesBySource(metrics: readonly string[], sources: readonly string[]): SourceLoss[] {
  const found = metrics.filter((metric) => metric.startsWith(PREFIX)).map((metric) => ({ source: metric.slice(PREFIX.length), metric }));
  const isNow = ({ source }: SourceLoss) => sources.includes(source);
  return [...found.filter(isNow), ...found.filter((loss) => !isNow(loss))];
}

export interface Thinned {
  steps: readonly number[];
  mean: readonly Metric[];
}

/**
 * Curves over one axis of steps.
 *
 * Each was thinned by itself, so where only another one has a point it goes straight on between its own neighbours.
 */
export function joined(curves: readonly (Thinned | undefined)[]): { x: number[]; values: (number | null)[][] } {
  const x = [...new Set(curves.flatMap((curve) => curve?.steps ?? []))].sort((a, b) => a - b);
  return { x, values: curves.map((curve) => along(x, curve)) };
}

function along(x: readonly number[], curve: Thinned | undefined): (number | null)[] {
  const steps = curve?.steps ?? [];
  const means = curve?.mean ?? [];
  let next = 0;
  return x.map((step) => {
    while (next < steps.length && (steps[next] ?? 0) < step) next += 1;
    const right = finite(means[next]);
    const rightStep = steps[next];
    if (rightStep === step) return right;
    const left = finite(means[next - 1]);
    const leftStep = steps[next - 1];
    if (leftStep === undefined || rightStep === undefined || left === null || right === null) return null;
    return left + ((right - left) * (step - leftStep)) / (rightStep - leftStep);
  });
}

function finite(value: Metric | undefined): number | null {
  const number = asNumber(value);
  return number !== null && Number.isFinite(number) ? number : null;
}
