import { expect, it } from "vitest";

import type { BranchStarted, Checkpoint } from "../../api/schema";
import { lineageOf, newestOf } from "./lineage";

const saved = (checkpoint_id: string, branch: string, step: number): Checkpoint => ({
  checkpoint_id, branch, step, path: "", tag: null, keep_in: "disk", size_bytes: null, metric: null, pinned: false,
  is_before: false, kept_as: "", problem: "", at_s: 0, command_id: null, seq: 1,
});
const begun = (name: string, parent: string | null = null, from_step = 0, checkpoint_id: string | null = null): BranchStarted => ({ kind: "branch_started", name, parent, from_step, checkpoint_id });

it("lets a branch go off the checkpoint that was restored, whatever branch that lay on", () => {
  const { ways, branches } = lineageOf([begun("main"), begun("retry", "main", 20, "b")], [saved("a", "main", 10), saved("b", "main", 20)], { branch: "retry", step: 25 });
  expect(branches).toEqual(["main", "retry"]);
  expect(ways.filter(({ isReturn }) => isReturn)).toEqual([{ id: "off to retry", from: "checkpoint b", to: "start retry", isReturn: true }]);
  expect(ways.map(({ from, to }) => `${from} > ${to}`)).toContain("start retry > now");
});

it("goes by the step where the restored checkpoint is gone", () => {
  const { ways } = lineageOf([begun("main"), begun("retry", "main", 20, "gone")], [saved("a", "main", 10), saved("c", "main", 30)], { branch: "retry", step: 25 });
  expect(ways.find(({ isReturn }) => isReturn)?.from).toBe("checkpoint a");
});

it("puts no two places of a lane on one spot, and later steps never further left", () => {
  const checkpoints = [saved("start", "main", 0), saved("a", "main", 10), saved("twin", "main", 10), saved("b", "retry", 12)];
  const { places } = lineageOf([begun("main"), begun("retry", "main", 10, "a")], checkpoints, { branch: "retry", step: 12 });
  const spots = places.map(({ lane, column }) => `${lane}:${column}`);
  expect(new Set(spots).size).toBe(spots.length);
  const inOrder = [...places].sort((x, y) => x.step - y.step);
  for (const [at, place] of inOrder.entries()) {
    for (const later of inOrder.slice(at)) if (later.step > place.step) expect(later.column).toBeGreaterThan(place.column - 1);
  }
});

it("folds checkpoints in a row that nothing tells apart, and keeps the newest, the named and those a branch goes off", () => {
  const many = Array.from({ length: 500 }, (_, at) => saved(`c${at}`, "main", at));
  const named = many.map((one) => (one.step === 100 ? { ...one, pinned: true } : one));
  const branches = [begun("main"), begun("retry", "main", 300, "c300")];
  const now = { branch: "retry", step: 310 };
  const { places } = lineageOf(branches, named, now);
  const main = places.filter(({ lane }) => lane === 0).map(({ kind, step, count }) => [kind, step, count]);
  expect(main).toEqual([["start", 0, 1], ["fold", 99, 100], ["checkpoint", 100, 1], ["fold", 299, 199], ["checkpoint", 300, 1], ["fold", 498, 198], ["checkpoint", 499, 1]]);
  const opened = lineageOf(branches, named, now, new Set(["fold c0"])).places;
  expect(opened.filter(({ kind, lane }) => kind === "checkpoint" && lane === 0)).toHaveLength(103);
  expect(newestOf(places)?.id).toBe("now");
});

it("gives a lane that has come to its end to a later branch, so that many branches need few lanes", () => {
  const names = Array.from({ length: 12 }, (_, at) => `b${at}`);
  const branches = names.map((name, at) => begun(name, at === 0 ? null : `b${at - 1}`, at * 100, at === 0 ? null : `c${at - 1}`));
  const checkpoints = names.flatMap((name, at) => [saved(`c${at}`, name, (at + 1) * 100), saved(`d${at}`, name, (at + 1) * 100 + 10)]);
  const { places, lanes } = lineageOf(branches, checkpoints, { branch: "b11", step: 1250 });
  expect(lanes).toBeLessThanOrEqual(3);
  expect(new Set(places.map(({ lane, column }) => `${lane}:${column}`)).size).toBe(places.length);
});
