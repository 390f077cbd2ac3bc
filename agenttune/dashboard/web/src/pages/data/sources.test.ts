import { expect, it } from "vitest";

import { joined, lossesBySource } from "./sources";

it("finds the loss of each source, those of now first", () => {
  const names = ["loss", "loss/old", "step_loss", "loss/a/b", "loss/code"];
  expect(lossesBySource(names, ["code", "a/b"]).map(({ source }) => source)).toEqual(["a/b", "code", "old"]);
});

it("lays curves that were thinned apart over one axis", () => {
  const { x, values } = joined([{ steps: [0, 10], mean: [1, 3] }, { steps: [5, 15], mean: [2, "NaN"] }, undefined]);
  expect(x).toEqual([0, 5, 10, 15]);
  expect(values).toEqual([[1, 2, 3, null], [null, 2, null, null], [null, null, null, null]]);
});
