import type { AxisCurve, Branches } from "../api/schema";
import { asNumber } from "../components/numbers";
import { COLORS, traceOf, type Trace } from "./traces";

const LEFT_WIDTH = 1.2;

/** By branch, the last step of it that the run stands on: none for those that it has left altogether. */
export type Lineage = ReadonlyMap<string, number>;

/** What is known of a run's branches before the server has told. */
export function onlyBranch(current: string): Branches {
  return { current, branches: [], tree: [] };
}

const MOST_BRANCHES = 40;

/** The branches that a chart draws: those that the run stands on, and the newest of the others. */
export function namesOf(branches: Branches): string[] {
  const lineage = lineageOf(branches);
  const others = branches.branches.map(({ name }) => name).filter((name) => !lineage.has(name));
  return [...[...lineage.keys()].reverse(), ...others.slice(-MOST_BRANCHES)];
}

/** The branches that the current one stands on. */
export function lineageOf({ branches, current }: Branches): Lineage {
  const byName = new Map(branches.map((branch) => [branch.name, branch]));
  const found = new Map<string, number>();
  let [name, until]: [string | null | undefined, number] = [current, Infinity];
  while (typeof name === "string" && !found.has(name)) {
    found.set(name, until);
    const branch = byName.get(name);
    until = Math.min(until, branch?.from_step ?? 0);
    name = branch?.parent;
  }
  return found;
}

/** The same color for a branch in every chart. */
export function colorOf(branch: string, { branches }: Branches): string {
  const place = branches.findIndex(({ name }) => name === branch);
  return COLORS[Math.max(0, place) % COLORS.length] ?? "gray";
}

/**
 * The curves of a metric, branch by branch: whole where the run stands on it, dashed where it was left, and grown from
 * where it left its parent.
 */
export function branchTraces(curves: readonly AxisCurve[], branches: Branches, label: (curve: AxisCurve) => string, shift = 0): Trace[] {
  const lineage = lineageOf(branches);
  return curves.flatMap((curve) => {
    const look = { label: label(curve), color: colorOf(curve.branch, branches) };
    const until = lineage.get(curve.branch);
    const left = { ...look, dashed: true, width: LEFT_WIDTH };
    if (until === undefined) return [grown(traceOf(curve, left, shift), curve, shift)];
    const cut = curve.steps.findIndex((step) => step > until);
    if (cut < 0) return [grown(traceOf(curve, look, shift), curve, shift)];
    const rest = traceOf(part(curve, Math.max(0, cut - 1)), { ...left, label: `${look.label}, undone` }, shift);
    if (cut === 0) return [grown(rest, curve, shift)];
    return [grown(traceOf(part(curve, 0, cut), look, shift), curve, shift), rest];
  });
}

function part(curve: AxisCurve, from: number, to?: number): AxisCurve {
  return {
    ...curve,
    steps: curve.steps.slice(from, to),
    x: curve.x.slice(from, to),
    mean: curve.mean.slice(from, to),
    low: curve.low.slice(from, to),
    high: curve.high.slice(from, to),
    nonfinite: curve.nonfinite.slice(from, to),
  };
}

/** With the place where the branch left its parent in front. */
function grown(trace: Trace, { root }: AxisCurve, shift: number): Trace {
  const [x, y] = [asNumber(root?.[1]), asNumber(root?.[2])];
  if (x === null || y === null || !Number.isFinite(x) || !Number.isFinite(y) || x - shift > (trace.x[0] ?? Infinity)) return trace;
  return {
    ...trace,
    x: [x - shift, ...trace.x],
    y: [y, ...trace.y],
    ...(trace.low && trace.high ? { low: [y, ...trace.low], high: [y, ...trace.high] } : {}),
  };
}
