import type { ComponentType, LazyExoticComponent } from "react";

import { lazily } from "./lazily";

export interface RunPageProps {
  runId: string;
}

type RunPage = LazyExoticComponent<ComponentType<RunPageProps>>;

/** A page of one run: the last part of its path, and what it is called. */
export interface RunTab {
  path: string;
  title: string;
  Page: RunPage;
}

/** The pages of a run, in the order of their tabs. Each is a file of its own, loaded when it is first looked at. */
export const RUN_TABS: readonly RunTab[] = [
  { path: "", title: "Overview", Page: lazily(() => import("./pages/overview/OverviewPage")) },
  { path: "metrics", title: "Metrics", Page: lazily(() => import("./pages/metrics/MetricsPage")) },
  { path: "agent", title: "Agent", Page: lazily(() => import("./pages/agent/AgentPage")) },
  { path: "approvals", title: "Approvals", Page: lazily(() => import("./pages/approvals/ApprovalsPage")) },
  { path: "controls", title: "Controls", Page: lazily(() => import("./pages/controls/ControlsPage")) },
  { path: "model", title: "Model", Page: lazily(() => import("./pages/model/ModelPage")) },
  { path: "data", title: "Data", Page: lazily(() => import("./pages/data/DataPage")) },
  { path: "checkpoints", title: "Checkpoints", Page: lazily(() => import("./pages/checkpoints/CheckpointsPage")) },
  { path: "log", title: "Log", Page: lazily(() => import("./pages/log/LogPage")) },
];

export const RunsPage = lazily(() => import("./pages/runs/RunsPage"));
export const ComparePage = lazily(() => import("./pages/compare/ComparePage"));

/** The path of a run's page; the overview is the run's own path. */
export function pathOf(runId: string, tab = ""): string {
  return `/runs/${encodeURIComponent(runId)}${tab && `/${tab}`}`;
}
