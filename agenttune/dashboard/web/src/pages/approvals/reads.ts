import { useQuery, type UseQueryResult } from "@tanstack/react-query";

import { answerOf, server } from "../../api/client";
import { asCommand, keys, type AnyCommand } from "../../api/queries";
import type { Approval, DryRun } from "../../api/schema";

/** The curves go on, and so does what waiting costs. */
const AGAIN_MS = 10_000;

const at = (runId: string, commandId: string) => ({ path: { run_id: runId, command_id: commandId } });

/** A request with what one should know before answering it. */
export function useApproval(runId: string, commandId: string): UseQueryResult<Approval> {
  return useQuery({
    queryKey: keys.run(runId, "commands", "approval", commandId),
    queryFn: () => answerOf(server.GET("/api/v1/runs/{run_id}/approvals/{command_id}", { params: at(runId, commandId) })),
    refetchInterval: AGAIN_MS,
  });
}

/** What the guardrails say of a request, were it to run with other values. */
export function previewEdit(runId: string, commandId: string, command: AnyCommand): Promise<DryRun> {
  return answerOf(
    server.POST("/api/v1/runs/{run_id}/approvals/{command_id}/preview", { params: at(runId, commandId), body: { command: asCommand(command) } }),
  );
}
