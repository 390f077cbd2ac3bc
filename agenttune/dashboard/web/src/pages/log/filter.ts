import { answerOf, server } from "../../api/client";
import type { Events } from "../../api/schema";

/** Which entries are shown. */
export interface LogFilter {
  kinds: readonly string[];
  search: string;
  steps: readonly [number, number] | null;
  commandId: string;
}

/** Where a page of entries begins, or before what it ends. */
export type Place = { since: number } | { before: number };

/** Beyond the end of any log. */
export const END: Place = { before: 2 ** 53 };

/** A page of the log, without what was said to models: that may be megabytes. */
export function readPage(runId: string, { kinds, search, steps, commandId }: LogFilter, place: Place, limit: number): Promise<Events> {
  return answerOf(
    server.GET("/api/v1/runs/{run_id}/events", {
      params: {
        path: { run_id: runId },
        query: {
          ...place,
          limit,
          texts: false,
          kinds: [...kinds],
          ...(search ? { search } : {}),
          ...(steps ? { first_step: steps[0], last_step: steps[1] } : {}),
          ...(commandId ? { command_id: commandId } : {}),
        },
      },
    }),
  );
}
