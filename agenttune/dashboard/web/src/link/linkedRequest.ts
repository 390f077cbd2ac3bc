import { answerOf, serverAt } from "../api/client";
import { asCommand, type AnyCommand } from "../api/queries";
import type { CommandRecord, DryRun, LinkedRequest } from "../api/schema";
import type { Given } from "../pages/approvals/useDecide";

/** What can be done by a signed link: see its one request, preview an edit of it, decide on it. */
export interface Link {
  read: () => Promise<LinkedRequest>;
  preview: (command: AnyCommand) => Promise<DryRun>;
  decide: (given: Given) => Promise<CommandRecord>;
}

/** The link that an address is. A tunnel may put a path in front of it; no cookie goes along. */
export function linkIn(address: string): Link {
  const [base = "", rest = ""] = address.split("/links/");
  const server = serverAt(base, "omit");
  const params = { path: { token: rest.split(/[?#]/)[0] ?? "" } };
  return {
    read: () => answerOf(server.GET("/links/{token}/request", { params })),
    preview: (command) => answerOf(server.POST("/links/{token}/preview", { params, body: { command: asCommand(command) } })),
    decide: ({ verdict, reason, command }) => {
      if (verdict === "escalate") throw new Error("A link leaves nothing to others.");
      const body = { verdict, reason, ...(command ? { command: asCommand(command) } : {}) };
      return answerOf(server.POST("/links/{token}/decision", { params, body }));
    },
  };
}
