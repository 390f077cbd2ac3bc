import { useQuery, type UseQueryResult } from "@tanstack/react-query";

import { answerOf, server } from "../../api/client";
import { keys } from "../../api/queries";
import type { AgentStatus, Findings, History } from "../../api/schema";

const MOST = 1000;
const NOW_MS = 5000;

/** All that was asked for in a run, with what came of it. */
export function useInterventions(runId: string): UseQueryResult<History> {
  return useQuery({
    queryKey: keys.run(runId, "history", MOST),
    queryFn: () =>
      answerOf(
        server.GET("/api/v1/runs/{run_id}/history", {
          params: { path: { run_id: runId }, query: { limit: MOST } },
        }),
      ),
  });
}

export function useAllFindings(runId: string): UseQueryResult<Findings> {
  return useQuery({
    queryKey: keys.run(runId, "events", "findings", MOST),
    queryFn: () =>
      answerOf(
        server.GET("/api/v1/runs/{run_id}/findings", {
          params: { path: { run_id: runId }, query: { limit: MOST } },
        }),
      ),
  });
}

export function useAgentNow(runId: string): UseQueryResult<AgentStatus> {
  return useQuery({
    queryKey: keys.run(runId, "events", "agent"),
    queryFn: () => answerOf(server.GET("/api/v1/runs/{run_id}/agent", { params: { path: { run_id: runId } } })),
    refetchInterval: NOW_MS,
  });
}
