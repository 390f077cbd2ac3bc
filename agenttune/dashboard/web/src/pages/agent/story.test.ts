import { expect, it } from "vitest";

import type { Event } from "../../api/schema";
import { entriesOf } from "./story";

function decided(seq: number, commands: string[] = [], faults: string[] = []): Event {
  return {
    seq,
    at_s: seq,
    step: seq,
    branch: "main",
    body: { kind: "decided", policy: "p", reason: "r", woken_by: "", unusable: false, command_ids: commands, faults },
  };
}

it("folds looks that changed nothing, newest first, and tells those that asked or failed", () => {
  const found: Event = {
    seq: 4,
    at_s: 4,
    branch: "main",
    body: { kind: "found", finding: { kind: "plateau", metric: "loss", severity: "info", step: 4, summary: "flat" } },
  };
  const entries = entriesOf([decided(1), decided(2), decided(3, ["c"]), found, decided(5), decided(6, [], ["x"])]);
  const shown = entries.map((entry) => (entry.kind === "looks" ? entry.looks.map((look) => look.seq) : entry.event.seq));
  expect(shown).toEqual([6, [5], 4, 3, [2, 1]]);
});

it("folds the model calls of looks that changed nothing with them, and tells those that failed or led to a change", () => {
  const called = (seq: number, error = ""): Event => ({
    seq, at_s: seq, step: seq, branch: "main",
    body: { kind: "model_called", purpose: "decide", model: "m", messages: [], error, usd: 0.01 } as unknown as Event["body"],
  });
  const entries = entriesOf([called(1), decided(2), called(3), decided(4), called(5), decided(6, ["c"]), called(7, "timeout"), decided(8)]);
  const shown = entries.map((entry) => (entry.kind === "looks" ? [entry.looks.length, entry.calls.length] : entry.event.seq));
  expect(shown).toEqual([[1, 0], 7, 6, 5, [2, 2]]);
});
