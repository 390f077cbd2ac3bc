import { keepPreviousData, useQuery, type UseQueryResult } from "@tanstack/react-query";
import { useMemo } from "react";

import { keys } from "../api/queries";
import type { AxisCurve, Curves } from "../api/schema";
import { asNumber } from "../components/numbers";
import { curvesTogether } from "./curvesTogether";
import type { Range } from "./zoom";

const WHOLE_POINTS = 800;
const CLOSE_POINTS = 1600;
/** Live rows make curves stale (`api/live.ts`); this is for where no live connection comes about. */
const LIVE_MS = 20_000;
const SAMPLE_MS = 800;
/** Parts that nobody looks at any more go soon: zooming makes many. */
const KEPT_MS = 30_000;
const MARGIN = 0.5;

export type Axis = Curves["axis"];

export interface Wanted {
  names: readonly string[];
  branches: readonly string[];
  axis: Axis;
  /** What is seen of the axis, settled; null: all. */
  range: Range | null;
  /** What the range's numbers are less than the server's. */
  shift?: number;
  /** Whether more is to come. */
  isLive: boolean;
  enabled?: boolean;
}

export interface CurvesFound {
  /** The finest that is there for the range. */
  curves: readonly AxisCurve[];
  /** The read of the whole, which everything begins with. */
  query: UseQueryResult<Curves>;
  /** How far the curves go on the axis. */
  whole: Range | null;
}

/**
 * Curves for one chart: the whole of them thinned by the server, and, zoomed in, the part that is seen once more with
 * as many points. Until that has come the whole stands in for it.
 */
export function useCurves(runId: string, { range, shift = 0, isLive, enabled = true, ...wanted }: Wanted): CurvesFound {
  // A log that the server has only sampled so far is asked for again: its curves are being prepared.
  const interval = ({ state }: { state: { data?: Curves | undefined } }) =>
    state.data?.is_sample ? SAMPLE_MS : isLive ? LIVE_MS : false;
  const query = useQuery({
    ...curvesOptions(runId, wanted, null, WHOLE_POINTS),
    enabled: enabled && wanted.names.length > 0,
    refetchInterval: interval,
  });
  const coarse = query.data?.curves;
  const steps = useMemo(() => (range === null || !coarse ? null : stepsWithin(coarse, [range[0] + shift, range[1] + shift])), [coarse, range, shift]);
  const isThinned = coarse?.some((curve) => curve.bucket_points > 1) ?? false;
  const close = useQuery({
    ...curvesOptions(runId, wanted, steps, CLOSE_POINTS),
    enabled: enabled && steps !== null && isThinned,
    refetchInterval: interval,
  });
  const fine = steps !== null && isThinned && !close.isPlaceholderData ? close.data?.curves : undefined;
  const shown = useMemo(() => (fine && steps ? fine.map((curve) => withoutFarRoot(curve, steps[0])) : coarse), [fine, coarse, steps]);
  const whole = useMemo(() => (coarse ? extent(coarse) : null), [coarse]);
  return { curves: shown ?? NONE, query, whole };
}

const NONE: readonly AxisCurve[] = [];

export function curvesOptions(
  runId: string,
  { names, branches, axis }: Pick<Wanted, "names" | "branches" | "axis">,
  steps: Range | null,
  maxPoints: number,
) {
  const query = {
    name: [...names],
    branch: [...branches],
    axis,
    max_points: maxPoints,
    ...(steps === null ? {} : { first_step: steps[0], last_step: steps[1] }),
  };
  return {
    queryKey: keys.run(runId, "curve", "several", query),
    queryFn: (): Promise<Curves> => curvesTogether.ask(runId, query),
    placeholderData: keepPreviousData,
    gcTime: KEPT_MS,
  };
}

/** The steps whose place on the axis is in a range, and some on either side to move into. */
export function stepsWithin(curves: readonly AxisCurve[], [low, high]: Range): Range | null {
  const margin = (high - low) * MARGIN;
  let [first, last] = [Infinity, -Infinity];
  for (const { x, steps } of curves) {
    const places = x.map((value) => asNumber(value) ?? NaN);
    const from = places.findLastIndex((at) => at <= low - margin);
    const to = places.findIndex((at) => at >= high + margin);
    // An entry stands at the last step of what it holds, so that the first one begins before its own.
    first = Math.min(first, from > 0 ? (steps[from] ?? Infinity) : 0);
    last = Math.max(last, steps[to < 0 ? steps.length - 1 : to] ?? -Infinity);
  }
  return first <= last ? [first, last] : null;
}

/** A curve that is read from its middle on grows from nowhere. */
function withoutFarRoot(curve: AxisCurve, firstStep: number): AxisCurve {
  return curve.root && curve.root[0] < firstStep ? { ...curve, root: null } : curve;
}

export function extent(curves: readonly AxisCurve[]): Range | null {
  let [low, high] = [Infinity, -Infinity];
  for (const { x } of curves) {
    for (const value of x) {
      const at = asNumber(value);
      if (at === null || !Number.isFinite(at)) continue;
      low = Math.min(low, at);
      high = Math.max(high, at);
    }
  }
  return low <= high ? [low, high] : null;
}
