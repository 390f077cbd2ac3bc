import { expect, it } from "vitest";

import { ServerError } from "../../api/client";
import type { DryRun } from "../../api/schema";
import { refusalOf } from "./DryRunAnswer";

const rejected = { decision: "rejected", decided_by: "guardrail:bounds", reason: "lr is too high" } as unknown as DryRun;
const told = { data: rejected, error: null, isPlaceholderData: false };

it("keeps what would be refused from being sent, by an answer about it and no earlier one", () => {
  expect(refusalOf(told)).toContain("lr is too high");
  expect(refusalOf({ ...told, isPlaceholderData: true })).toBe("");
  expect(refusalOf({ ...told, data: { ...rejected, decision: "approved" } })).toBe("");
  expect(refusalOf({ ...told, data: undefined })).toBe("");
});

it("counts what the server cannot even read as refused, and its being away not", () => {
  const problem = { type: "UserError", message: "lr: at most 100" };
  expect(refusalOf({ ...told, data: undefined, error: new ServerError(422, problem) })).toBe("lr: at most 100");
  expect(refusalOf({ ...told, data: undefined, error: new Error("away") })).toBe("");
});
