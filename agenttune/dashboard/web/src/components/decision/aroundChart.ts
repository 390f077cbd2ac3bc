import type { Span } from "../../charts/annotations";
import { joined, type Plotted } from "../../charts/traces";
import type { Line } from "../../charts/Plot";
import type { Around } from "../../api/schema";
import { asNumber, type Metric } from "../numbers";

export const WITH_COLOR = "#1c7ed6";
export const WITHOUT_COLOR = "#e8590c";

/** A metric before and after a change, and where it was going without it. */
export function drawnAround({ before, after, undone = [], expected = [] }: Around): Plotted {
  const points = (values: readonly { step: number; value: Metric }[]) => ({
    x: values.map(({ step }) => step),
    y: values.map(({ value }) => finite(value)),
  });
  const side = (read: (at: (typeof expected)[number]) => Metric) => ({
    x: expected.map(({ step }) => step),
    y: expected.map((at) => finite(read(at))),
  });
  const columns = [points([...before, ...after])];
  const lines: Line[] = [{ label: "as it went", color: WITH_COLOR, width: 2 }];
  if (undone.length > 0) {
    columns.push(points(undone));
    lines.push({ label: "undone", color: WITHOUT_COLOR, dashed: true });
  }
  if (expected.length > 0) {
    const first = columns.length;
    columns.push(side(({ high }) => high), side(({ low }) => low), side(({ likely }) => likely));
    lines.push(
      { label: "highest expected", color: WITHOUT_COLOR, quiet: true },
      { label: "lowest expected", color: WITHOUT_COLOR, quiet: true, band: [first, first + 1] },
      { label: "expected without it", color: WITHOUT_COLOR, dashed: true },
    );
  }
  const broken = [...before, ...after].filter(({ value }) => finite(value) === null).map(({ step }) => step);
  return { ...joined(columns), lines, broken };
}

/** With room on the right, where a mark at the last step would stand on the frame and not be seen. */
export function withRoom<T extends Plotted>(drawn: T, step: number): T {
  const [first, last] = [drawn.x[0], drawn.x.at(-1)];
  if (first === undefined || last === undefined || step < last) return drawn;
  const room = Math.max(1, Math.round((step - first) / 20));
  return { ...drawn, x: [...drawn.x, step + room], values: drawn.values.map((line) => [...line, undefined]) };
}

/** What lies beyond the next change is shaded: it tells of that one too. */
export function beyond({ until_step: until, after }: Around): Span[] {
  const last = after.at(-1)?.step;
  return typeof until === "number" && last !== undefined && last > until ? [{ from: until, to: last, color: "rgba(128,128,128,0.14)" }] : [];
}

function finite(value: Metric): number | null {
  const number = asNumber(value);
  return number !== null && Number.isFinite(number) ? number : null;
}
