import { asNumber, type Metric } from "../components/numbers";
import type { AxisCurve } from "../api/schema";
import type { Line } from "./Plot";

/** `null` is a gap in a line; `undefined`: it has no value there, and goes on. */
export type Value = number | null | undefined;

/** A line of data as it came, before it is smoothed and drawn. */
export interface Trace {
  label: string;
  color: string;
  dashed?: boolean;
  width?: number;
  x: readonly number[];
  y: readonly Value[];
  /** Lowest and highest of what each entry stands for. */
  low?: readonly Value[];
  high?: readonly Value[];
  /** Where values were not finite. */
  broken?: readonly number[];
}

export interface Plotted {
  x: number[];
  values: Value[][];
  lines: Line[];
  broken: number[];
}

export const COLORS = ["#1c7ed6", "#e8590c", "#2f9e44", "#ae3ec9", "#0c8599", "#c2255c", "#846358", "#e67700"];
/** A step this many times as wide as usual is a gap. */
const GAP = 10;
const FEWEST_FOR_GAPS = 10;

/** The entries of a curve from the server whose place on the axis is known; a bucket without any number is a gap. */
export function traceOf(curve: AxisCurve, look: Pick<Trace, "label" | "color" | "dashed" | "width">, shift = 0): Trace {
  const kept = curve.x.map((value) => asNumber(value) ?? NaN).map((x, i) => [x - shift, i] as const).filter(([x]) => Number.isFinite(x));
  const read = (values: readonly Metric[]) => kept.map(([, i]) => finite(values[i]));
  const trace: Trace = {
    ...look,
    x: kept.map(([x]) => x),
    y: read(curve.mean),
    broken: kept.filter(([, i]) => (curve.nonfinite[i] ?? 0) > 0).map(([x]) => x),
    ...(curve.bucket_points > 1 ? { low: read(curve.low), high: read(curve.high) } : {}),
  };
  return withGaps(trace);
}

function finite(value: Metric | undefined): number | null {
  const number = asNumber(value);
  return number !== null && Number.isFinite(number) ? number : null;
}

/** With a gap in the middle of each stretch from which values are missing. */
export function withGaps(trace: Trace): Trace {
  const { x } = trace;
  if (x.length < FEWEST_FOR_GAPS) return trace;
  const widths = x.slice(1).map((value, i) => value - (x[i] ?? 0));
  const usual = [...widths].sort((a, b) => a - b)[Math.floor(widths.length * 0.75)] ?? 0;
  const places = widths.flatMap((width, i) => (usual > 0 && width > GAP * usual ? [i + 1] : []));
  if (places.length === 0) return trace;
  const put = <T,>(values: readonly T[], of: (i: number) => T) =>
    values.flatMap((value, i) => (places.includes(i) ? [of(i), value] : [value]));
  const gap = (values: readonly Value[]) => put(values, () => null);
  return {
    ...trace,
    x: put(x, (i) => ((x[i - 1] ?? 0) + (x[i] ?? 0)) / 2),
    y: gap(trace.y),
    ...(trace.low && trace.high ? { low: gap(trace.low), high: gap(trace.high) } : {}),
  };
}

/**
 * Values averaged over what came before, which counts less the further back it is.
 *
 * @param scale Distance on the axis at which a value counts a third; it does not depend on how densely values lie.
 */
export function smoothed(x: readonly number[], y: readonly Value[], scale: number): Value[] {
  if (scale <= 0) return [...y];
  let sum = 0;
  let weight = 0;
  let last: number | null = null;
  return y.map((value, i) => {
    if (value === null || value === undefined) return value;
    const at = x[i] ?? 0;
    const width: number = last === null ? 0 : at - last;
    const fade: number = last === null ? 0 : Math.exp(-width / scale);
    const share: number = last === null ? 1 : 1 - fade;
    // The first value stands for itself alone, so that the line begins where the data does.
    sum = sum * fade + value * share;
    weight = weight * fade + share;
    last = at;
    return sum / weight;
  });
}

export interface Drawing {
  log?: boolean;
  /** See `smoothed`. */
  scale?: number;
}

/** All traces on one axis, ready to be drawn: with bands, smoothed lines, and gaps. */
export function plotted(traces: readonly Trace[], { log = false, scale = 0 }: Drawing = {}): Plotted {
  const lines: Line[] = [];
  const columns: { x: readonly number[]; y: readonly Value[] }[] = [];
  const add = (line: Line, x: readonly number[], y: readonly Value[]) => {
    lines.push(line);
    columns.push({ x, y: log ? y.map((value) => (typeof value === "number" && value <= 0 ? null : value)) : y });
  };
  for (const { x, y, low, high, label, color, dashed = false, width } of traces) {
    const look = { label, color, dashed, ...(width === undefined ? {} : { width }) };
    if (low && high && scale === 0) {
      add({ label: `${label}: highest`, color, quiet: true }, x, high);
      add({ label: `${label}: lowest`, color, quiet: true, band: [lines.length - 1, lines.length] }, x, low);
    }
    if (scale > 0) add({ ...look, label: `${label}: as it is`, color: `${color}40`, faint: true }, x, y);
    add(look, x, scale > 0 ? smoothed(x, y, scale) : y);
  }
  const broken = [...new Set(traces.flatMap((trace) => trace.broken ?? []))].sort((a, b) => a - b);
  return { ...joined(columns), lines, broken };
}

/** Several lines on one axis of all their places. */
export function joined(columns: readonly { x: readonly number[]; y: readonly Value[] }[]): Pick<Plotted, "x" | "values"> {
  const [first] = columns;
  if (first !== undefined && columns.every(({ x }) => x === first.x)) {
    return { x: [...first.x], values: columns.map(({ y }) => [...y]) };
  }
  const x = [...new Set(columns.flatMap((column) => column.x))].sort((a, b) => a - b);
  const place = new Map(x.map((at, i) => [at, i]));
  const values = columns.map((column) => {
    const row = new Array<Value>(x.length).fill(undefined);
    column.x.forEach((at, i) => {
      row[place.get(at) ?? 0] = column.y[i];
    });
    return row;
  });
  return { x, values };
}
