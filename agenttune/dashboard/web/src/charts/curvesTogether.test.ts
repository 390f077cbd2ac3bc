import { afterEach, beforeEach, expect, test, vi } from "vitest";

import { ServerError } from "../api/client";
import type { AxisCurve, Curves } from "../api/schema";
import { CurvesTogether, type CurvesAsked } from "./curvesTogether";

const ASKED = { branch: ["main"], axis: "step" as const, max_points: 800 };

const curve = (name: string): AxisCurve => ({ name, branch: "main", bucket_points: 1, steps: [1], mean: [1], low: [1], high: [1], nonfinite: [0], x: [1], parent: null, root: null });

function answer({ name, axis }: CurvesAsked): Curves {
  return { axis, curves: name.filter((one) => one !== "gone").map(curve), missing: name.filter((one) => one === "gone"), is_sample: false };
}

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

test("charts that ask in the same moment share a request, and each gets its own curves", async () => {
  const read = vi.fn((_: string, query: CurvesAsked) => Promise.resolve(answer(query)));
  const together = new CurvesTogether(read);
  const found = Promise.all([
    together.ask("one", { ...ASKED, name: ["loss"] }),
    together.ask("one", { ...ASKED, name: ["lr", "gone"] }),
    together.ask("one", { ...ASKED, name: ["loss"], first_step: 10, last_step: 20 }),
    together.ask("other", { ...ASKED, name: ["loss"] }),
  ]);
  await vi.runAllTimersAsync();
  const [loss, rate, close] = await found;
  expect(loss.curves.map(({ name }) => name)).toEqual(["loss"]);
  expect([rate.curves.map(({ name }) => name), rate.missing]).toEqual([["lr"], ["gone"]]);
  expect(close.curves).toHaveLength(1);
  expect(read.mock.calls.map(([runId, query]) => [runId, query.name])).toEqual([
    ["one", ["loss", "lr", "gone"]],
    ["one", ["loss"]],
    ["other", ["loss"]],
  ]);
});

test("no address becomes too long, however the metrics are called", async () => {
  const read = vi.fn((_: string, query: CurvesAsked) => Promise.resolve(answer(query)));
  const together = new CurvesTogether(read);
  const names = Array.from({ length: 70 }, (_, i) => (i === 3 ? "x".repeat(5000) : `metric ${i}`));
  const found = Promise.all(names.map((name) => together.ask("one", { ...ASKED, name: [name] })));
  await vi.runAllTimersAsync();
  expect((await found).map(({ curves }) => curves[0]?.name)).toEqual(names);
  expect(read.mock.calls.length).toBeLessThan(6);
  for (const [, query] of read.mock.calls) expect(query.name.length === 1 || query.name.join("").length < 2000).toBe(true);
});

test("a name that the server refuses keeps no other chart empty", async () => {
  const refusal = new ServerError(422, { type: "UserError", message: "name is too long" });
  const read = (_: string, query: CurvesAsked) => (query.name.includes("bad") ? Promise.reject(refusal) : Promise.resolve(answer(query)));
  const together = new CurvesTogether(read);
  const found = Promise.allSettled(["a", "bad", "b"].map((name) => together.ask("one", { ...ASKED, name: [name] })));
  await vi.runAllTimersAsync();
  expect((await found).map(({ status }) => status)).toEqual(["fulfilled", "rejected", "fulfilled"]);
});

test("a refusal is told to all who asked", async () => {
  const together = new CurvesTogether(() => Promise.reject(new Error("the run is gone")));
  const found = Promise.allSettled([together.ask("one", { ...ASKED, name: ["a"] }), together.ask("one", { ...ASKED, name: ["b"] })]);
  await vi.runAllTimersAsync();
  expect((await found).map(({ status }) => status)).toEqual(["rejected", "rejected"]);
});
