import { useQueries } from "@tanstack/react-query";

import { answerOf, server } from "../../api/client";
import { keys } from "../../api/queries";
import type { RunInfo } from "../../api/schema";
import { curvesOptions, type Axis } from "../../charts/useCurves";
import { isLive } from "../../components/RunStatus";
import type { Compared } from "./compared";

const POINTS = 1500;
const LIVE_MS = 4000;

interface Problem {
  runId: string;
  error: unknown;
}

/** The runs, and every metric that one of them has. */
export function useComparedSeries(runIds: readonly string[]): { runs: RunInfo[]; names: string[]; errors: Problem[] } {
  const infos = useQueries({
    queries: runIds.map((runId) => ({
      queryKey: keys.run(runId, "info"),
      queryFn: () => answerOf(server.GET("/api/v1/runs/{run_id}", { params: { path: { run_id: runId } } })),
      refetchInterval: LIVE_MS,
    })),
  });
  const runs = infos.flatMap(({ data }) => (data ? [data] : []));
  const series = useQueries({
    queries: runs.map(({ run_id: runId, branch }) => ({
      queryKey: keys.run(runId, "series", branch),
      queryFn: () =>
        answerOf(
          server.GET("/api/v1/runs/{run_id}/metrics", { params: { path: { run_id: runId }, query: { branch } } }),
        ),
    })),
  });
  const names = [...new Set(series.flatMap(({ data }) => data?.series.map(({ name }) => name) ?? []))].sort();
  const errors = infos.flatMap(({ error }, i) => (error ? [{ runId: runIds[i] ?? "", error }] : []));
  return { runs, names, errors };
}

/** One metric of each run on the branch that it is on. */
export function useCompared(runs: readonly RunInfo[], metric: string, axis: Axis): { found: Compared[]; isLoading: boolean; problems: Problem[] } {
  const curves = useQueries({
    queries: runs.map((run) => ({
      ...curvesOptions(run.run_id, { names: [metric], branches: [run.branch], axis }, null, POINTS),
      enabled: metric !== "",
      refetchInterval: isLive(run.status) ? LIVE_MS : (false as const),
    })),
  });
  const found = runs.flatMap((run, i) => (curves[i]?.data?.curves ?? []).map((curve) => ({ run, curve })));
  const problems = curves.flatMap(({ error }, i) => (error ? [{ runId: runs[i]?.run_id ?? "", error }] : []));
  return { found, isLoading: curves.some((query) => query.isLoading), problems };
}
