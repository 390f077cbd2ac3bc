import { useQuery, type UseQueryResult } from "@tanstack/react-query";

import { answerOf, server } from "../../api/client";
import { keys } from "../../api/queries";
import type { CommandDecision } from "../../api/schema";

/** All that is known of one command. */
export function useDecision(runId: string, commandId: string): UseQueryResult<CommandDecision> {
  return useQuery({
    queryKey: keys.run(runId, "decision", commandId),
    queryFn: () =>
      answerOf(
        server.GET("/api/v1/runs/{run_id}/decisions/{command_id}", {
          params: { path: { run_id: runId, command_id: commandId } },
        }),
      ),
    refetchInterval: ({ state: { data } }) => (data && isOpen(data) ? OPEN_MS : false),
  });
}

const OPEN_MS = 5000;

/** Whether more is to be known of it: an effect takes steps to show. */
function isOpen({ intervention: { effect }, record: { state } }: CommandDecision): boolean {
  return state === "proposed" || state === "queued" || (effect !== null && effect !== undefined && !effect.is_final);
}
