import { expect, it } from "vitest";

import { deletionOf } from "./deletion";

it("deletes nothing while no rule is given", () => {
  expect(deletionOf({ keepLast: "", keepBest: "", beforeStep: "", branch: null })).toBeNull();
});

it("takes a zero for a number, and an empty field for none", () => {
  expect(deletionOf({ keepLast: 0, keepBest: "", beforeStep: "", branch: null })).toEqual({ kind: "delete_checkpoints", keep_last: 0 });
});
