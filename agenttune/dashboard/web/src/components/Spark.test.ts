import { expect, it } from "vitest";

import { sparkPaths } from "./Spark";

it("draws from the first step to the last, high values on top", () => {
  expect(sparkPaths([0, 10], [1, 2])).toEqual(["M2.0 22.0L78.0 2.0"]);
});

it("breaks where a value is not finite", () => {
  expect(sparkPaths([0, 1, 2, 3], [1, "NaN", 1, 2])).toHaveLength(2);
  expect(sparkPaths([0, 1], ["NaN", "Infinity"])).toEqual([]);
});
