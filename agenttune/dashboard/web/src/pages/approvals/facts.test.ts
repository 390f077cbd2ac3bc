import { expect, test } from "vitest";

import type { ApprovalRequest, CommandRecord } from "../../api/schema";
import { askedNext, askedOf, decidedInWords, silenceInWords, stalenessInWords, waitingIn } from "./facts";

const request = {
  digest: "d",
  rule: "ask",
  approvers: ["human", "model"],
  passed: [],
  requested_at_s: 1000,
  expires_at_s: 1600,
  on_timeout: "reject",
  step: 120,
} as unknown as ApprovalRequest;

function record(seq: number, more: object): CommandRecord {
  const proposal = { command: { kind: "stop_training", save: true }, author: { principal: "agent", name: "m" } };
  return { submitted_seq: seq, state: "proposed", proposal, request, ...more } as unknown as CommandRecord;
}

test("the oldest that waits comes first, and what is decided does not wait", () => {
  const all = [record(3, {}), record(1, {}), record(2, { state: "queued" }), record(4, { request: null })];
  expect(waitingIn(all).map(({ submitted_seq: seq }) => seq)).toEqual([1, 3]);
});

test("silence is told by the rule and the time that is left", () => {
  expect(silenceInWords(request, 1000)).toBe("If nobody answers, it is not done, and recorded as expired in 10 min.");
  expect(silenceInWords({ ...request, on_timeout: "approve" }, 1700)).toBe("If nobody answers, it is approved now.");
  const asksModel = { ...request, on_timeout: "approve" as const, approvers: ["model"] };
  expect(silenceInWords(asksModel, 1000)).toContain("it is not done");
});

test("a request says how far the run has moved on since", () => {
  expect(stalenessInWords(request, 115, 160)).toBe("Asked at step 120, on what was seen at step 115; the run has moved on 40 steps.");
  expect(stalenessInWords(request, null, 120)).toContain("has not moved on");
});

test("it is known whose turn it is, and who comes after", () => {
  expect([askedOf(request), askedNext(request)]).toEqual(["human", "model"]);
  const passed = { ...request, passed: [{ by: "operator:ann", reason: "" }] };
  expect([askedOf(passed), askedNext(passed)]).toEqual(["model", ""]);
});

test("who was slower is told who decided what", () => {
  const verdict = { decision: "rejected", decided_by: "operator:anna", reason: "too early" };
  expect(decidedInWords(record(1, { state: "rejected", verdict }))).toBe("stop training was rejected by operator:anna: too early");
});
