import { fireEvent, screen } from "@testing-library/react";
import { afterEach, expect, test, vi } from "vitest";

import { ServerAway } from "../../api/client";
import type { Approval, CommandSchema } from "../../api/schema";
import { shown } from "../../testing/shown";
import { ApprovalCard, type ApprovalCardProps } from "./ApprovalCard";
import type { Waiting } from "./facts";

const RATE: CommandSchema = {
  kind: "update_optimizer",
  description: "",
  risk: "tune",
  impact: "change",
  fields: [{ name: "lr", description: "", required: false, accepts: "number" }],
  json_schema: {
    type: "object",
    additionalProperties: false,
    properties: { kind: { const: "update_optimizer", type: "string" }, lr: { type: "number", minimum: 0, maximum: 1 } },
  },
};
const RECORD = {
  submitted_seq: 1,
  state: "proposed",
  proposal: { command_id: "c", command: { kind: "update_optimizer", lr: 0.02 }, author: { principal: "agent", name: "m" }, rationale: "flat\u202e" },
  request: {
    digest: "d",
    rule: "ask",
    approvers: ["human"],
    passed: [],
    requested_at_s: 1000,
    expires_at_s: 1600,
    on_timeout: "reject",
    training: "pause",
    step: 120,
    branch: "main",
    differences: [{ name: "lr", before: 0.01, after: 0.02 }],
  },
} as unknown as Waiting;
const APPROVAL = { record: RECORD, now_s: 1060, steps_per_s: 2, usd_per_hour: 3.6, curves: [] } as unknown as Approval;

function card(more: Partial<ApprovalCardProps> = {}) {
  const decide = vi.fn();
  shown(
    <ApprovalCard
      record={RECORD}
      approval={APPROVAL}
      clock={{ nowS: APPROVAL.now_s, atMs: Date.now() }}
      command={RATE}
      commands={[RATE]}
      run={{ status: "running", step: 140, max_steps: 1000 }}
      whyNot=""
      isEditing={false}
      onEditing={() => undefined}
      onDecide={decide}
      isDeciding={false}
      error={null}
      preview={() => <p>what it comes to</p>}
      {...more}
    />,
  );
  return decide;
}

afterEach(() => void vi.useRealTimers());

test.each([0, 86_400_000, -86_400_000])("time left and cost go by the server's clock, whatever this one says (%d ms ahead)", (ahead) => {
  vi.useFakeTimers({ now: 1_060_000 + ahead, toFake: ["Date"] });
  card();
  expect(screen.getByText(/not done, and recorded as expired in 9 min/)).toBeTruthy();
  expect(screen.getByText("Training is held meanwhile: 1 min so far (about 120 steps, $0.06).")).toBeTruthy();
});

test("what one's role may not do is not offered, and says why", () => {
  card({ whyNot: "To decide, the role operator is wanted." });
  expect(screen.getByText("To decide, the role operator is wanted.")).toBeTruthy();
  for (const button of screen.getAllByRole<HTMLButtonElement>("button")) expect(button.disabled).toBe(true);
});

test("a reason goes along with a decision, and a standing yes where it is given", () => {
  const decide = card();
  fireEvent.change(screen.getByLabelText(/Reason/), { target: { value: " too early " } });
  fireEvent.click(screen.getByText("Reject"));
  expect(decide).toHaveBeenLastCalledWith({ verdict: "reject", reason: "too early" });
  fireEvent.click(screen.getByLabelText(/With approve/));
  fireEvent.click(screen.getByText("Approve"));
  expect(decide).toHaveBeenLastCalledWith({ verdict: "approve", reason: "too early", always: true });
});

test("a link's card offers nothing beyond its one request", () => {
  card({ isAlone: true });
  expect(screen.getAllByRole("button").map(({ textContent }) => textContent)).toEqual(["Approve", "Edit…", "Reject"]);
  expect(screen.queryByRole("checkbox")).toBeNull();
});

test("an edit has the values that were asked for, within the gate's bounds, and what it comes to", async () => {
  const decide = card({ isEditing: true, hints: { bounds: { lr: [1e-6, 0.05] } } });
  const rate = await screen.findByLabelText<HTMLInputElement>("lr", undefined, { timeout: 20_000 });
  expect([rate.value, screen.getByText("what it comes to").textContent]).toEqual(["0.02", "what it comes to"]);
  fireEvent.change(rate, { target: { value: "0.5" } });
  fireEvent.click(screen.getByText("Run with these values"));
  expect(decide).not.toHaveBeenCalled();
  fireEvent.change(rate, { target: { value: "0.03" } });
  fireEvent.click(screen.getByText("Run with these values"));
  expect(decide).toHaveBeenCalledWith({ verdict: "edit", reason: "", command: { kind: "update_optimizer", lr: 0.03 } });
}, 30_000);

test("a decision that met no server is not called undecided", () => {
  card({ error: new ServerAway(null) });
  expect(screen.getByRole("alert").textContent).toContain("It is not known whether that arrived");
});
