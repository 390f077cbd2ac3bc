import { expect, it } from "vitest";

import { parsedLike } from "./values";

it.each([
  [1, "2e-3", { value: 0.002 }],
  [1, "NaN", { problem: "A finite number is wanted." }],
  [1, "", { problem: "A finite number is wanted." }],
  ["a", "true", { value: "true" }],
  [true, "false", { value: false }],
  [["help"], '["help", "sums"]', { value: ["help", "sums"] }],
  [["help"], '{"a": 1}', { problem: "A list is wanted, such as [1, 2]." }],
  [null, "3", { value: 3 }],
])("what is typed has the kind of what stands there (%j: %s)", (current, text, parsed) =>
  expect(parsedLike(current, text)).toEqual(parsed),
);

it("says how to mend what is no JSON", () => {
  expect(parsedLike(["a"], "a, b")).toMatchObject({ problem: expect.stringContaining("quotes") as string });
});
