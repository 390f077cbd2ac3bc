import { useQuery } from "@tanstack/react-query";
import { useEffect } from "react";

import { answerOf, server } from "../../api/client";
import { keys } from "../../api/queries";

const AGAIN_MS = 5000;
/** Of runs that have ended nothing waits. */
const LIVE = { status: ["starting" as const, "running" as const, "paused" as const], limit: 1000 };

/** The tab's title, with how many requests wait for a decision in all runs, whatever the list is filtered by. */
export function useWaitingTitle(): void {
  const query = useQuery({
    queryKey: [...keys.runs, "waiting"],
    queryFn: () => answerOf(server.GET("/api/v1/overview", { params: { query: LIVE } })),
    refetchInterval: AGAIN_MS,
    refetchIntervalInBackground: true,
  });
  const count = (query.data?.runs ?? []).reduce((sum, { waiting }) => sum + waiting, 0);
  useEffect(() => {
    document.title = `${count > 0 ? `(${count}) ` : ""}Runs – agenttune`;
    return () => {
      document.title = "agenttune";
    };
  }, [count]);
}
