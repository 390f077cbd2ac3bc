import { expect, it } from "vitest";

import type { AxisCurve } from "../api/schema";
import { csvOf, fileName, type Seen } from "./download";

const CURVE: AxisCurve = {
  name: "=1+1,x",
  branch: "main",
  bucket_points: 1,
  steps: [1, 2],
  x: [1, 2],
  mean: [0.5, "NaN"],
  low: [0.5, "NaN"],
  high: [0.5, "NaN"],
  nonfinite: [0, 1],
};

const ALL: Seen = { axis: "step", range: null, shift: 0 };

it("saves curves so that no spreadsheet takes a name for a formula", () => {
  const [head, first, second] = csvOf([CURVE], ALL).split("\r\n");
  expect(head).toBe("metric,branch,step,mean,low,high,not_finite,points_at_most");
  expect(first).toBe(`"'=1+1,x",main,1,0.5,0.5,0.5,0,1`);
  expect(second).toContain("NaN");
});

it("leaves negative numbers numbers", () => {
  expect(csvOf([{ ...CURVE, name: "a", mean: [-1, -2] }], ALL)).toContain("a,main,1,-1,");
});

it("saves what is seen of each curve, also of one that ends before it", () => {
  const left = { ...CURVE, name: "a", mean: [1, 2] };
  const longer = { ...left, branch: "retry", steps: [5, 6, 7], x: [1005, 1006, "NaN" as const], mean: [5, 6, 7], low: [5, 6, 7], high: [5, 6, 7], nonfinite: [0, 0, 0] };
  const rows = csvOf([left, longer], { axis: "time", range: [5.5, 9], shift: 1000 }).split("\r\n");
  expect(rows).toEqual(["metric,branch,step,time_s,mean,low,high,not_finite,points_at_most", "a,retry,6,6,6,6,6,0,1"]);
});

it("makes a file name of any name", () => {
  expect(fileName("../<img onerror=1>\u202e.png")).toBe(".._img_onerror_1_.png");
});
