import { fireEvent, screen, waitFor } from "@testing-library/react";
import { afterEach, beforeEach, expect, it, vi } from "vitest";

import type { AgentStatus } from "../../api/schema";
import { meOf } from "../../api/session";
import { shown } from "../../testing/shown";
import { AgentControls } from "./AgentControls";

const me = meOf({ role: "operator", name: "anna", via: "cookie", token: "", runs: [], rights: { choose_policy: true }, why_not: {}, commands: {}, notice: "" });
const sent: unknown[] = [];

beforeEach(() => {
  sent.length = 0;
  vi.stubGlobal("fetch", async (request: Request) => {
    sent.push(((await request.json()) as { record: unknown }).record);
    return Response.json({ seq: 1 });
  });
});
afterEach(() => void vi.unstubAllGlobals());

function controls(agent: Partial<AgentStatus>, isLive = true) {
  shown(<AgentControls runId="night" me={me} isLive={isLive} agent={{ doing: "waiting", policy: "guardian", ...agent } as AgentStatus} />);
}

async function asksFor(button: string, policy: string | null) {
  fireEvent.click(screen.getByRole("button", { name: button }));
  await waitFor(() => expect(sent).toEqual([expect.objectContaining({ kind: "policy_requested", policy })]));
}

it("pauses a policy by one that asks for nothing", async () => {
  controls({});
  await asksFor("Pause it", "noop");
});

it("goes on with the one that was there before", async () => {
  controls({ policy: "noop", previous: "policies/mine.yaml" });
  expect(screen.queryByRole("button", { name: "Pause it" })).toBeNull();
  await asksFor("Go on with policies/mine.yaml", "policies/mine.yaml");
});

it("sends it away", async () => {
  controls({});
  await asksFor("Send it away", null);
});

it.each([
  ["nobody would obey", { policy: null }, true, "No agent is beside this run"],
  ["its agent is lost", { doing: "lost" as const }, true, "No agent is beside this run"],
  ["nothing else was there before", { policy: "noop" }, true, "It asks for nothing as it is."],
  ["the run has ended", {}, false, "The run has ended."],
])("cannot be paused where %s", (_, agent, isLive, why) => {
  controls(agent, isLive);
  const pause = screen.getByRole("button", { name: "Pause it" });
  fireEvent.click(pause);
  expect(pause.getAttribute("aria-description")).toContain(why);
  expect(sent).toEqual([]);
});

it("keeps what is typed while it is sending", async () => {
  let answer: (() => void) | undefined;
  const asked = vi.fn(() => new Promise<Response>((resolve) => (answer = () => resolve(Response.json({ seq: 1 })))));
  vi.stubGlobal("fetch", asked);
  controls({});
  const policy = screen.getByLabelText<HTMLInputElement>("Policy");
  fireEvent.change(policy, { target: { value: "noop" } });
  fireEvent.click(screen.getByRole("button", { name: "Swap" }));
  await waitFor(() => expect(asked).toHaveBeenCalled());
  fireEvent.change(policy, { target: { value: "lookahead" } });
  answer?.();
  await new Promise((resolve) => setTimeout(resolve, 100));
  expect(policy.value).toBe("lookahead");
});

it("clears what was sent", async () => {
  controls({});
  const policy = screen.getByLabelText<HTMLInputElement>("Policy");
  fireEvent.change(policy, { target: { value: "noop" } });
  fireEvent.click(screen.getByRole("button", { name: "Swap" }));
  await waitFor(() => expect(policy.value).toBe(""));
});
