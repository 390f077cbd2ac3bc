import { describe, expect, it } from "vitest";

import type { AxisCurve, Branches } from "../api/schema";
import { branchTraces, lineageOf } from "./branchTraces";
import { joined, plotted, smoothed, traceOf, withGaps } from "./traces";
import { extent, stepsWithin } from "./useCurves";

function curve(steps: number[], mean: (number | string)[] = steps, more: Partial<AxisCurve> = {}): AxisCurve {
  const zeros = steps.map(() => 0);
  return { name: "loss", branch: "main", bucket_points: 1, steps, x: steps, mean, low: mean, high: mean, nonfinite: zeros, ...more };
}

const LOOK = { label: "loss", color: "#000" };

describe("what is not finite", () => {
  it("is a gap, and its place is told", () => {
    const trace = traceOf(curve([1, 2, 3], [1, "NaN", 3], { nonfinite: [0, 1, 0] }), LOOK);
    expect(trace.y).toEqual([1, null, 3]);
    expect(trace.broken).toEqual([2]);
  });

  it("stays a gap in a smoothed line", () => {
    expect(smoothed([1, 2, 3], [1, null, 1], 5)[1]).toBeNull();
  });
});

it("leaves a gap where values are missing, and none where a metric is always far apart", () => {
  const steps = [...Array.from({ length: 12 }, (_, i) => i), 100, 101];
  const trace = withGaps({ ...LOOK, x: steps, y: steps });
  expect(trace.y[12]).toBeNull();
  const sparse = Array.from({ length: 12 }, (_, i) => i * 40);
  expect(withGaps({ ...LOOK, x: sparse, y: sparse }).y).not.toContain(null);
});

it("puts lines of different places on one axis without breaking them", () => {
  const { x, values } = joined([
    { x: [1, 3], y: [10, 30] },
    { x: [2, 3], y: [20, null] },
  ]);
  expect(x).toEqual([1, 2, 3]);
  expect(values).toEqual([
    [10, undefined, 30],
    [undefined, 20, null],
  ]);
});

describe("smoothing", () => {
  it("keeps a level, and begins where the data does", () => {
    expect(smoothed([0, 1, 2], [5, 5, 5], 10)).toEqual([5, 5, 5]);
  });

  it("does not depend on how densely the values lie", () => {
    const dense = Array.from({ length: 1001 }, (_, i) => i / 10);
    const sparse = Array.from({ length: 101 }, (_, i) => i);
    const end = (x: number[]) => smoothed(x, x.map((at) => (at < 50 ? 0 : 1)), 20).at(-1) ?? 0;
    expect(Math.abs(end(dense) - end(sparse))).toBeLessThan(0.03);
  });
});

it("shows nothing of zero and below on a logarithmic axis", () => {
  const drawn = plotted([{ ...LOOK, x: [1, 2], y: [0, 1] }], { log: true });
  expect(drawn.values.at(-1)).toEqual([null, 1]);
});

describe("branches", () => {
  const branches: Branches = {
    current: "b",
    branches: [
      { kind: "branch_started", name: "main", parent: null, from_step: 0, checkpoint_id: null },
      { kind: "branch_started", name: "b", parent: "main", from_step: 2, checkpoint_id: "c" },
      { kind: "branch_started", name: "lost", parent: "main", from_step: 1, checkpoint_id: "d" },
    ],
    tree: [],
  };

  it("stand on their parents up to where they left them", () => {
    expect([...lineageOf(branches)]).toEqual([
      ["b", Infinity],
      ["main", 2],
    ]);
  });

  it("grow from their parent, whose undone part is dashed", () => {
    const child = curve([3, 4], [30, 40], { branch: "b", parent: "main", root: [2, 2, 20] });
    const traces = branchTraces([curve([1, 2, 3], [10, 20, 25]), child], branches, ({ branch }) => branch);
    expect(traces.map(({ label, dashed = false, x }) => [label, dashed, x])).toEqual([
      ["main", false, [1, 2]],
      ["main, undone", true, [2, 3]],
      ["b", false, [2, 3, 4]],
    ]);
    expect(traces[2]?.y[0]).toBe(20);
  });
});

describe("the part that is asked for again", () => {
  const time = curve([10, 20, 30, 40, 50], undefined, { x: [100, 200, 300, 400, 500] });

  it("is told in steps, whatever the axis is, and a little wider than what is seen", () => {
    expect(stepsWithin([time], [300, 310])).toEqual([20, 40]);
  });

  it("begins at the start where the first entry is seen, which stands for steps before it", () => {
    expect(stepsWithin([time], [90, 150])?.[0]).toBe(0);
  });

  it("goes as far as the data", () => {
    expect(extent([time])).toEqual([100, 500]);
    expect(extent([curve([1], [1], { x: ["NaN"] })])).toBeNull();
  });
});
