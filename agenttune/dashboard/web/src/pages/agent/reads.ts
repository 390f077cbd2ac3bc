import { useMutation, useQuery, useQueryClient, type UseQueryResult } from "@tanstack/react-query";

import { answerOf, server } from "../../api/client";
import { keys } from "../../api/queries";
import type { Events, Finding, Transcript } from "../../api/schema";

/** What the timeline tells: all that a policy looked at, decided, spent or was told, and what the detectors saw. */
const KINDS = {
  all: ["decided", "found", "policy_attached", "policy_detached", "policy_requested", "model_called", "note_added"],
  findings: ["found"],
};
export type Told = keyof typeof KINDS;
export const PAGE = 300;

/** The newest part of the agent's story up to a cursor, oldest first. */
export function useStory(runId: string, before: number | null, told: Told): UseQueryResult<Events> {
  return useQuery({
    queryKey: keys.run(runId, "events", "story", told, before),
    queryFn: () =>
      answerOf(
        server.GET("/api/v1/runs/{run_id}/events", {
          params: { path: { run_id: runId }, query: { before: before ?? 2 ** 53, limit: PAGE, kinds: KINDS[told] } },
        }),
      ),
    ...(before === null ? {} : { staleTime: Infinity }),
  });
}

export function useTranscript(runId: string, seq: number): UseQueryResult<Transcript> {
  return useQuery({
    queryKey: keys.run(runId, "calls", "transcript", seq),
    queryFn: () =>
      answerOf(
        server.GET("/api/v1/runs/{run_id}/model-calls/{seq}", { params: { path: { run_id: runId, seq } } }),
      ),
    staleTime: Infinity,
  });
}

type RecordBody = Parameters<typeof post>[1];

function post(runId: string, record: { kind: "policy_requested"; policy: string | null } | FindingWord) {
  return answerOf(
    server.POST("/api/v1/runs/{run_id}/records", {
      params: { path: { run_id: runId } },
      body: { record: { author: "", ...record } },
    }),
  );
}

interface FindingWord {
  kind: "finding_judged";
  finding_seq: number;
  right: boolean;
  text: string;
}

/** Writes a person's word into the log. */
export function useRecord(runId: string) {
  const client = useQueryClient();
  return useMutation({
    mutationFn: (record: RecordBody) => post(runId, record),
    onSettled: () => client.invalidateQueries({ queryKey: ["run", runId] }),
  });
}

export type Evidence = NonNullable<Finding["evidence"]>;
