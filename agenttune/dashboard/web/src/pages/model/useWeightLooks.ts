import { useQuery, type UseQueryResult } from "@tanstack/react-query";

import { answerOf, server } from "../../api/client";
import { keys } from "../../api/queries";
import type { Events } from "../../api/schema";

const NEWEST = 500;
/** Cursor beyond the end of any log: what comes before it are the newest events. */
const END = 2 ** 53;

/** The newest samples of the model's weights. They come every some steps, so they are not asked for at each event. */
export function useWeightLooks(runId: string): UseQueryResult<Events> {
  return useQuery({
    queryKey: keys.run(runId, "model", "looks"),
    queryFn: () =>
      answerOf(
        server.GET("/api/v1/runs/{run_id}/events", {
          params: { path: { run_id: runId }, query: { kinds: ["weights_sampled"], before: END, limit: NEWEST } },
        }),
      ),
    refetchInterval: 15_000,
    staleTime: 5000,
  });
}
