import { expect, test } from "vitest";

import { meOf, whyNot, whyNotCommand } from "./session";

const answer = {
  role: "viewer" as const,
  name: "ann",
  via: "token" as const,
  token: "ann 1234",
  runs: [],
  rights: { read: true, propose: false },
  why_not: { propose: "To propose commands, the role agent or operator is wanted; you are signed in as viewer." },
  commands: { update_optimizer: { allowed: false, why_not: "As a viewer you may only look." } },
  notice: "",
};

test("what a viewer may not do is said in the server's words", () => {
  const me = meOf(answer);
  expect(me.mayPropose).toBe(false);
  expect(whyNot(me, "mayPropose")).toContain("you are signed in as viewer");
  expect(whyNot(me, "mayDecide")).toContain("As viewer you may look, but not decide");
});

test("a right of the role does not offer a command that is refused by its kind", () => {
  const me = meOf({ ...answer, rights: { propose: true }, why_not: {} });
  expect(whyNotCommand(me, "update_optimizer")).toBe("As a viewer you may only look.");
  expect(whyNotCommand(me, "add_note")).toBe("");
});

test("nobody is told apart from a role without rights", () => {
  expect(meOf({ ...answer, role: null }).isKnown).toBe(false);
});
