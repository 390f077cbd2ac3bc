import type { Axis } from "../../charts/useCurves";
import { useUrlList, useUrlState } from "../../urlState";

export const AXES: { value: Axis; label: string }[] = [
  { value: "step", label: "Step" },
  { value: "epoch", label: "Epoch" },
  { value: "time", label: "Time" },
  { value: "tokens", label: "Tokens" },
];

/** How curves are looked at, as it stands in the URL. */
export interface MetricsView {
  axis: Axis;
  setAxis: (axis: Axis) => void;
  /** From 0 to 100. */
  smoothing: number;
  setSmoothing: (smoothing: number) => void;
  log: boolean;
  setLog: (log: boolean) => void;
  search: string;
  setSearch: (search: string) => void;
  /** Branches that are shown; none: all. */
  branches: string[];
  setBranches: (branches: string[]) => void;
}

export function useMetricsView(): MetricsView {
  const [axis, setAxis] = useUrlState("x", "step");
  const [smoothing, setSmoothing] = useUrlState("smooth", "0");
  const [log, setLog] = useUrlState("log");
  const [search, setSearch] = useUrlState("q");
  const [branches, setBranches] = useUrlList("branches");
  return {
    axis: AXES.find(({ value }) => value === axis)?.value ?? "step",
    setAxis,
    smoothing: Math.min(100, Math.max(0, Number(smoothing) || 0)),
    setSmoothing: (next) => setSmoothing(String(next)),
    log: log === "1",
    setLog: (next) => setLog(next ? "1" : ""),
    search,
    setSearch,
    branches,
    setBranches,
  };
}

const LONGEST = 0.12;

/** How far a smoothed line looks back, on an axis so wide. */
export function scaleOf(smoothing: number, width: number): number {
  return LONGEST * (smoothing / 100) ** 2 * width;
}
