import { useQuery, type UseQueryResult } from "@tanstack/react-query";

import { answerOf, server } from "../../api/client";
import { keys } from "../../api/queries";
import type { RunOverview } from "../../api/schema";

const NOW_MS = 4000;

/** What the list of runs tells of one: its pace, its goal, its policy. */
export function useRunRow(runId: string): UseQueryResult<RunOverview | null> {
  return useQuery({
    queryKey: keys.run(runId, "info", "row"),
    queryFn: async () => {
      const found = await answerOf(server.GET("/api/v1/overview", { params: { query: { search: runId, limit: 20 } } }));
      return found.runs.find((run) => run.run_id === runId) ?? null;
    },
    refetchInterval: NOW_MS,
  });
}
