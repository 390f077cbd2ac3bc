import { useMemo, useState } from "react";
import type uPlot from "uplot";

import { told } from "../components/numbers";
import type { Mark, Span } from "./annotations";
import { Cursor } from "./cursor";
import { Plot } from "./Plot";
import { Readout } from "./Readout";
import { plotted, type Trace } from "./traces";
import type { Zoom } from "./zoom";

export interface TraceChartProps {
  traces: readonly Trace[];
  zoom: Zoom;
  summary: string;
  syncKey?: string;
  height?: number;
  log?: boolean;
  /** Values above it are cut off. */
  top?: number;
  /** See `smoothed`. */
  scale?: number;
  xLabel: string;
  xFormat?: (x: number) => string;
  marks?: readonly Mark[];
  spans?: readonly Span[];
  onMade?: (plot: uPlot | null) => void;
}

/** Curves with the words beside them: which is which, and what is under the cross-hair. */
export function TraceChart(props: TraceChartProps) {
  const { traces, log = false, scale = 0, xLabel, xFormat = told, ...rest } = props;
  const drawn = useMemo(() => plotted(traces, { log, scale }), [traces, log, scale]);
  const [cursor] = useState(() => new Cursor());
  const toldAt = (x: number) => `${xLabel} ${xFormat(x)}`;
  return (
    <>
      <Readout lines={drawn.lines} values={drawn.values} cursor={cursor} xFormat={toldAt} log={log} />
      <Plot {...rest} {...drawn} log={log} cursor={cursor} xLabel={xLabel} xFormat={xFormat} />
    </>
  );
}
