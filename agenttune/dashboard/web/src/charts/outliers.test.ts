import { expect, it } from "vitest";

import { cutOf } from "./outliers";

const quiet = Array.from({ length: 100 }, (_, i) => 3 - i / 100);

it("cuts a blow-up off above what is usual, and says how high it went", () => {
  const cut = cutOf([{ mean: [...quiet, "NaN"] }, { mean: [2.8e8] }]);
  expect(cut?.highest).toBe(2.8e8);
  expect(cut?.top).toBeGreaterThan(3);
  expect(cut?.top).toBeLessThan(7);
});

it.each([
  ["a usual fall", quiet],
  ["a steep start", [9, 6, ...quiet]],
  ["a warm-up", [0, 1e-5, 1e-4, 1e-3]],
  ["values below zero", [-5, -4, -1]],
  ["nothing finite", ["NaN", "Infinity"]],
  ["nothing", []],
])("leaves %s whole", (_, mean) => expect(cutOf([{ mean }])).toBeNull());
