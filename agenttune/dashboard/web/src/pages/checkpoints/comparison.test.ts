import { expect, it } from "vitest";

import type { Checkpoint } from "../../api/schema";
import { compared } from "./comparison";
import { toldBytes } from "./sizes";

const at = (step: number, metric: number | string | null): Checkpoint => ({
  checkpoint_id: `c${step}`, branch: "main", step, path: "", tag: null, keep_in: "disk", size_bytes: 1_500_000, metric, pinned: false,
  is_before: false, kept_as: "", problem: "", at_s: 0, command_id: null, seq: 1,
});
const firstLine = (one: Checkpoint, other: Checkpoint, isLower: boolean) => compared(one, other, "eval_loss", isLower)[0]?.difference;

it("says which of two is better, in the direction of the goal", () => {
  expect(firstLine(at(10, 2), at(20, 1.5), true)).toBe("−0.5 (better)");
  expect(firstLine(at(10, 2), at(20, 1.5), false)).toBe("−0.5 (worse)");
  expect(firstLine(at(10, 2), at(20, 2), true)).toBe("the same");
});

it("judges nothing by a metric that is not known or is no number", () => {
  expect(firstLine(at(10, null), at(20, 1.5), true)).toBe("");
  expect(firstLine(at(10, "NaN"), at(20, 1.5), true)).toBe("");
});

it("tells sizes", () => {
  expect([0, 999, 1500, 2_340_000, null].map(toldBytes)).toEqual(["0 B", "999 B", "1.50 kB", "2.34 MB", "–"]);
});
