import { keepPreviousData, useQuery, type UseQueryResult } from "@tanstack/react-query";

import { answerOf, server } from "./client";
import { asCommand, dryRun, keys, proposed, type AnyCommand } from "./queries";
import type { DryRun, Guardrails } from "./schema";

const at = (runId: string) => ({ path: { run_id: runId } });

/** What the gate would say of a command now, with values before and after; asked again when the run moves on. */
export function useDryRun(runId: string, command: AnyCommand | null): UseQueryResult<DryRun> {
  return useQuery({
    queryKey: keys.run(runId, "guardrails", "dry run", command),
    queryFn: () => {
      if (command === null) throw new Error("There is no command to ask for.");
      return dryRun(runId, proposed(asCommand(command)));
    },
    enabled: command !== null,
    staleTime: 0,
    retry: false,
    placeholderData: keepPreviousData,
  });
}

export function useGuardrails(runId: string, enabled = true): UseQueryResult<Guardrails> {
  return useQuery({
    queryKey: keys.run(runId, "guardrails"),
    queryFn: () => answerOf(server.GET("/api/v1/runs/{run_id}/guardrails", { params: at(runId) })),
    enabled,
  });
}
