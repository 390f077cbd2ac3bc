import {
  keepPreviousData,
  QueryClient,
  useMutation,
  useQuery,
  useQueryClient,
  type UseQueryResult,
} from "@tanstack/react-query";

import { answerOf, server, ServerError } from "./client";
import type {
  Branches,
  Checkpoints,
  CommandRecord,
  Commands,
  CommandSchemas,
  Curve,
  Dataset,
  DryRun,
  History,
  Knobs,
  Model,
  ModelCalls,
  Observation,
  RunInfo,
  Runs,
  Series,
  Submission,
} from "./schema";

const RETRIES = 2;
const SAMPLE_MS = 800;

/** The cache of all reads. A refusal is not asked again; a server that is away is. */
export const queryClient = new QueryClient({
  defaultOptions: {
    queries: {
      retry: (count, error) => !(error instanceof ServerError && error.status < 500) && count < RETRIES,
      staleTime: 2000,
      refetchOnWindowFocus: true,
    },
  },
});

/**
 * Keys of the cache, by what a read is about. Live events make those stale that they touch (`live.ts`), so every read
 * of a run has a key here that begins with `run` and its id.
 */
export const keys = {
  runs: ["runs"] as const,
  me: ["me"] as const,
  schemas: ["schemas"] as const,
  run: (runId: string, part: RunPart, ...rest: unknown[]) => ["run", runId, part, ...rest] as const,
};

/** A part of what can be read of a run. */
export type RunPart =
  | "info"
  | "series"
  | "curve"
  | "knobs"
  | "model"
  | "dataset"
  | "checkpoints"
  | "branches"
  | "history"
  | "decision"
  | "commands"
  | "calls"
  | "events"
  | "guardrails"
  | "observation";

const at = (runId: string) => ({ path: { run_id: runId } });

export function useRuns(limit = 1000): UseQueryResult<Runs> {
  return useQuery({
    queryKey: [...keys.runs, limit],
    queryFn: () => answerOf(server.GET("/api/v1/runs", { params: { query: { limit } } })),
    refetchInterval: 5000,
  });
}

export function useSchemas(): UseQueryResult<CommandSchemas> {
  return useQuery({
    queryKey: keys.schemas,
    queryFn: () => answerOf(server.GET("/api/v1/commands")),
    staleTime: Infinity,
  });
}

export function useRun(runId: string): UseQueryResult<RunInfo> {
  return useQuery({
    queryKey: keys.run(runId, "info"),
    queryFn: () => answerOf(server.GET("/api/v1/runs/{run_id}", { params: at(runId) })),
    refetchInterval: 5000,
  });
}

export function useSeries(runId: string, branch = "main"): UseQueryResult<Series> {
  return useQuery({
    queryKey: keys.run(runId, "series", branch),
    queryFn: () =>
      answerOf(server.GET("/api/v1/runs/{run_id}/metrics", { params: { ...at(runId), query: { branch } } })),
    // A long log that is being prepared has told of some of its rows only.
    refetchInterval: ({ state }) => (state.data?.is_sample ? SAMPLE_MS : false),
  });
}

/** A part of a metric's curve; the server thins it to `maxPoints`. */
export interface CurveRange {
  name: string;
  branch: string;
  firstStep?: number;
  lastStep?: number | null;
  maxPoints?: number;
}

export function curveOptions(runId: string, range: CurveRange) {
  const { name, branch, firstStep = 0, lastStep = null, maxPoints = 1000 } = range;
  const query = {
    branch,
    first_step: firstStep,
    max_points: maxPoints,
    ...(lastStep === null ? {} : { last_step: lastStep }),
  };
  return {
    queryKey: keys.run(runId, "curve", name, branch, firstStep, lastStep, maxPoints),
    queryFn: (): Promise<Curve> =>
      answerOf(
        server.GET("/api/v1/runs/{run_id}/metrics/{name}", { params: { path: { run_id: runId, name }, query } }),
      ),
    placeholderData: keepPreviousData,
  };
}

export function useKnobs(runId: string): UseQueryResult<Knobs> {
  return useQuery({
    queryKey: keys.run(runId, "knobs"),
    queryFn: () => answerOf(server.GET("/api/v1/runs/{run_id}/knobs", { params: at(runId) })),
  });
}

export function useModel(runId: string): UseQueryResult<Model> {
  return useQuery({
    queryKey: keys.run(runId, "model"),
    queryFn: () => answerOf(server.GET("/api/v1/runs/{run_id}/model", { params: at(runId) })),
  });
}

export function useDataset(runId: string): UseQueryResult<Dataset> {
  return useQuery({
    queryKey: keys.run(runId, "dataset"),
    queryFn: () => answerOf(server.GET("/api/v1/runs/{run_id}/dataset", { params: at(runId) })),
  });
}

export function useCheckpoints(runId: string): UseQueryResult<Checkpoints> {
  return useQuery({
    queryKey: keys.run(runId, "checkpoints"),
    queryFn: () => answerOf(server.GET("/api/v1/runs/{run_id}/checkpoints", { params: at(runId) })),
  });
}

export function useBranches(runId: string): UseQueryResult<Branches> {
  return useQuery({
    queryKey: keys.run(runId, "branches"),
    queryFn: () => answerOf(server.GET("/api/v1/runs/{run_id}/branches", { params: at(runId) })),
  });
}

export function useHistory(runId: string): UseQueryResult<History> {
  return useQuery({
    queryKey: keys.run(runId, "history"),
    queryFn: () => answerOf(server.GET("/api/v1/runs/{run_id}/history", { params: at(runId) })),
  });
}

export function useCommands(runId: string): UseQueryResult<Commands> {
  return useQuery({
    queryKey: keys.run(runId, "commands"),
    queryFn: () => answerOf(server.GET("/api/v1/runs/{run_id}/commands", { params: at(runId) })),
  });
}

export function useModelCalls(runId: string): UseQueryResult<ModelCalls> {
  return useQuery({
    queryKey: keys.run(runId, "calls"),
    queryFn: () => answerOf(server.GET("/api/v1/runs/{run_id}/model-calls", { params: at(runId) })),
  });
}

export function useObservation(runId: string): UseQueryResult<Observation> {
  return useQuery({
    queryKey: keys.run(runId, "observation"),
    queryFn: () => answerOf(server.GET("/api/v1/runs/{run_id}/observation", { params: at(runId) })),
    staleTime: 10_000,
  });
}

/** A command as a form makes it from a schema that the page first sees when it runs. */
export interface AnyCommand {
  kind: string;
  [argument: string]: unknown;
}

/** Such a command for the types of the routes. The server checks it, and the form has checked it by its schema. */
export function asCommand(command: AnyCommand): Submission["command"] {
  return command as unknown as Submission["command"];
}

/** A command as the person at the page asks for it; the server knows who that is. */
export function proposed(command: Submission["command"], rationale = ""): Submission {
  return { command, author: { name: "" }, rationale, ask_always: false };
}

/** What the gate says of a command, without sending it. */
export async function dryRun(runId: string, submission: Submission): Promise<DryRun> {
  const answer = await answerOf(
    server.POST("/api/v1/runs/{run_id}/commands", {
      params: { ...at(runId), query: { dry_run: true } },
      body: submission,
    }),
  );
  if ("proposal" in answer) throw new Error("The server answered a dry run with a record.");
  return answer;
}

/** Ask for a command; the record tells what became of it, within `waitS` seconds up to the trainer's ack. */
export async function submit(runId: string, submission: Submission, waitS = 5): Promise<CommandRecord> {
  const answer = await answerOf(
    server.POST("/api/v1/runs/{run_id}/commands", {
      params: { ...at(runId), query: { wait_s: waitS } },
      body: submission,
    }),
  );
  if (!("proposal" in answer)) throw new Error("The server answered a command with a verdict alone.");
  return answer;
}

export function useSubmit(runId: string) {
  const client = useQueryClient();
  return useMutation({
    mutationFn: (submission: Submission) => submit(runId, submission),
    onSettled: () => client.invalidateQueries({ queryKey: ["run", runId] }),
  });
}
