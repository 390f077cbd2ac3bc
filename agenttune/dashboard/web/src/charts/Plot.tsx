import { useMantineColorScheme, useComputedColorScheme } from "@mantine/core";
import { useElementSize } from "@mantine/hooks";
import { useEffect, useRef, type ReactNode } from "react";
import uPlot from "uplot";

import type { Annotations } from "./annotations";
import type { Cursor } from "./cursor";
import { zoomByKey } from "./gestures";
import { dataOf, optionsFor } from "./plotOptions";
import type { Value } from "./traces";
import { useZoom, type Range, type Zoom } from "./zoom";

export { PLOT_LEFT, PLOT_RIGHT } from "./plotOptions";

/** A line of a chart; `null` in its values is a gap, and over `undefined` it goes on. */
export interface Line {
  label: string;
  color: string;
  dashed?: boolean;
  width?: number;
  /** The line goes in between these two other lines as a band: indexes of the upper and the lower one. */
  band?: readonly [number, number];
  /** Not drawn, only the edge of a band. */
  quiet?: boolean;
  /** Drawn, but not told of: the raw values behind a smoothed line. */
  faint?: boolean;
}

export interface PlotProps extends Annotations {
  x: readonly number[];
  values: readonly (readonly Value[])[];
  lines: readonly Line[];
  height?: number;
  log?: boolean;
  /** Values above it are cut off; of a straight scale only. */
  top?: number;
  /** Seen range of x; null for all. */
  range?: Range | null;
  onRange?: (range: Range | null) => void;
  /** In place of both: what this chart and others show, changed by any of them. */
  zoom?: Zoom;
  /** Charts with the same key share their cross-hair. */
  syncKey?: string;
  /** Is told what is under the cross-hair. */
  cursor?: Cursor;
  /** For who cannot see it: what the chart shows, in a sentence. */
  summary: string;
  xLabel?: string;
  xFormat?: (x: number) => string;
  /** Placed over the chart once its scales are known; gets x as a share of the width, or null where it is outside. */
  overlay?: (place: (x: number) => number | null) => ReactNode;
  plugins?: uPlot.Plugin[];
  /** Is given uPlot's own chart, such as to take a picture of it. */
  onMade?: (plot: uPlot | null) => void;
}

const NOTHING = () => undefined;

/** A chart by uPlot. It is made anew only when its kind changes; a zoom moves it without React. */
export function Plot(props: PlotProps) {
  const { height = 240, lines, log = false, syncKey, xLabel, range = null, onRange = NOTHING } = props;
  const { ref: box, width } = useElementSize<HTMLDivElement>();
  const holder = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const own = useZoom([props.x[0] ?? 0, props.x.at(-1) ?? 1], range, onRange);
  const zoom = props.zoom ?? own;
  const newest = useRef({ props, zoom });
  const scheme = useComputedColorScheme("light");
  const { colorScheme } = useMantineColorScheme();
  const kind = JSON.stringify([lines, log, syncKey, xLabel, scheme, colorScheme]);

  useEffect(() => {
    newest.current = { props, zoom };
  });

  useEffect(() => {
    const element = holder.current;
    if (element === null || width === 0) return;
    const made = new uPlot(optionsFor(newest, width), dataOf(newest.current.props), element);
    plot.current = made;
    newest.current.props.onMade?.(made);
    return () => {
      plot.current = null;
      newest.current.props.onMade?.(null);
      made.destroy();
    };
    // `kind` says all that the options depend on; the width has an effect of its own once there is a plot.
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [kind, width > 0]);

  useEffect(() => {
    if (width > 0) plot.current?.setSize({ width, height });
  }, [width, height]);

  useEffect(
    () =>
      zoom.subscribe(() => {
        const [min, max] = zoom.shown;
        plot.current?.setScale("x", { min, max });
      }),
    [zoom],
  );

  const { x, values, marks, spans, broken } = props;
  useEffect(() => {
    // The scale of x goes by the zoom whatever comes, and that of y by what is in sight.
    plot.current?.setData(dataOf(newest.current.props), true);
  }, [x, values, marks, spans, broken]);

  const [first, last] = range ?? [x[0] ?? 0, x.at(-1) ?? 1];
  const place = (at: number) => (at < first || at > last || last === first ? null : (at - first) / (last - first));
  return (
    <div
      ref={box}
      role="group"
      tabIndex={0}
      aria-label={`${props.summary}. Keys: plus and minus zoom, arrows move, 0 shows all.`}
      style={{ position: "relative", width: "100%", minHeight: height }}
      onKeyDown={(event) => {
        if (event.target === event.currentTarget && zoomByKey(zoom, event.key)) event.preventDefault();
      }}
    >
      <div ref={holder} role="img" aria-label={props.summary} />
      {props.overlay?.(place)}
    </div>
  );
}
