import { expect, it } from "vitest";

import type { AxisCurve, RunInfo } from "../../api/schema";
import { comparedTraces } from "./compared";

const run = (runId: string, name: string, start: number) => ({ run_id: runId, name, started_at_s: start, created_at_s: 0 }) as RunInfo;
const curve: AxisCurve = { name: "loss", branch: "main", bucket_points: 1, steps: [1, 2], x: [105, 110], mean: [3, 2], low: [3, 2], high: [3, 2], nonfinite: [0, 0] };

it("aligns by the time since each run's own start, and tells runs of one name apart by their ids", () => {
  const found = [
    { run: run("a-1", "a", 100), curve },
    { run: run("a-2", "a", 105), curve },
    { run: run("b-1", "b", 105), curve },
  ];
  expect(comparedTraces(found, "time").map(({ label, x }) => [label, x])).toEqual([
    ["a-1", [5, 10]],
    ["a-2", [0, 5]],
    ["b", [0, 5]],
  ]);
});

it("leaves a run out whose place on the axis is not known", () => {
  expect(comparedTraces([{ run: run("a", "a", 0), curve: { ...curve, x: ["NaN", "NaN"] } }], "tokens")).toEqual([]);
});
