import { expect, it } from "vitest";

import type { Change } from "../../api/schema";
import { rowsOf } from "./ChangeTable";
import { whenInWords } from "./words";

const lr: Change = { name: "lr", unit: "", previous: 1.536, requested: 0.26, effective: 0.04727, previous_base: 2.6, base: 0.26 };

it("tells the base and the value at this step apart where a schedule scales it", () => {
  expect(rowsOf(lr)).toEqual([
    { name: "lr, base", before: "2.6", asked: "0.26", now: "0.26" },
    { name: "lr, at this step", before: "1.536", asked: "", now: "0.04727" },
  ]);
  expect(rowsOf({ ...lr, requested: 0.04727 }).map(({ asked }) => asked)).toEqual(["", "0.04727"]);
});

it("is one line where nothing scales the value", () => {
  expect(rowsOf({ ...lr, base: 0.04727 })).toHaveLength(1);
  expect(rowsOf({ ...lr, name: "weight_decay", base: null })).toHaveLength(1);
});

it("tells a return by both its steps", () => {
  expect(whenInWords({ applied_at_step: 40, result: { from_step: 130 } })).toBe("Step 130, back to step 40: ");
  expect(whenInWords({ applied_at_step: 40, result: {} })).toBe("Step 40: ");
  expect(whenInWords({ applied_at_step: null })).toBe("");
});
