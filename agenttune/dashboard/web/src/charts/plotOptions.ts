import uPlot from "uplot";

import { annotationsPlugin } from "./annotations";
import { gesturesPlugin } from "./gestures";
import type { PlotProps } from "./Plot";
import type { Zoom } from "./zoom";
import type { Value } from "./traces";

const AXIS_WIDTH = 60;
/** Room for half of the last tick of an axis, such as 100,000: less cuts it off. */
const RIGHT = 26;
/** With at most so many values in sight, each is a dot of its own. */
const MOST_DOTS = 60;
/** Between ticks of an axis of steps: there is no half a step. */
const WHOLE = Array.from({ length: 13 }, (_, power) => [1, 2, 5].map((first) => first * 10 ** power)).flat();
/** uPlot's `Scale.Distr.Logarithmic`, a constant that exists in its types alone. */
// eslint-disable-next-line @typescript-eslint/no-unsafe-enum-assignment
const LOGARITHMIC = 3 as uPlot.Scale.Distr;

/** Left edge of the drawn part within the chart, in pixels: an overlay begins there. */
export const PLOT_LEFT = AXIS_WIDTH;
/** What is free on its right. */
export const PLOT_RIGHT = RIGHT;

/** What a chart goes by that changes without its being made anew. */
export interface Newest {
  props: PlotProps;
  zoom: Zoom;
}

export function dataOf({ x, values }: PlotProps): uPlot.AlignedData {
  return [x as number[], ...(values as Value[][])];
}

export function optionsFor(newest: { readonly current: Newest }, width: number): uPlot.Options {
  const { lines, log = false, height = 240, syncKey, plugins = [], xLabel } = newest.current.props;
  const style = getComputedStyle(document.documentElement);
  const ink = style.getPropertyValue("--mantine-color-dimmed").trim() || "#888";
  const grid = { stroke: "rgba(128,128,128,0.18)", width: 1 };
  const zoom = () => newest.current.zoom;
  return {
    width,
    height,
    padding: [8, RIGHT, 0, 0],
    plugins: [annotationsPlugin(() => newest.current.props), gesturesPlugin(zoom), ...plugins],
    legend: { show: false },
    cursor: {
      drag: { x: true, y: false, setScale: false },
      dataIdx: (plot, series, index) => nearest(plot.data[series] ?? [], index),
      points: { size: 6 },
      ...(syncKey ? { sync: { key: syncKey } } : {}),
    },
    scales: {
      x: { time: false, range: () => [...zoom().shown] as [number, number] },
      y: log ? { distr: LOGARITHMIC, range: logRange } : { range: (_, low, high) => linearRange(low, high, newest.current.props.top) },
    },
    axes: [
      {
        stroke: ink,
        grid,
        space: 70,
        size: 26,
        ...(xLabel === "step" ? { incrs: WHOLE } : {}),
        values: (_, splits) => splits.map((split) => (newest.current.props.xFormat ?? String)(round(split, splits))),
        ...(xLabel ? { label: xLabel, labelSize: 14, labelGap: 0, labelFont: "12px system-ui, sans-serif" } : {}),
      },
      { stroke: ink, grid, size: AXIS_WIDTH, values: (_, splits) => splits.map((split) => tick(split, splits)) },
    ],
    series: [
      {},
      ...lines.map(({ label, color, dashed = false, width: thick = 1.5, quiet = false }) => ({
        label,
        stroke: quiet ? "transparent" : color,
        width: quiet ? 0 : thick,
        points: quiet ? { show: false } : { show: areFew, size: 5, fill: color, stroke: color },
        ...(dashed ? { dash: [6, 4] } : {}),
      })),
    ],
    bands: lines.flatMap(({ band, color }) => (band ? [{ series: [band[0] + 1, band[1] + 1] as [number, number], fill: `${color}22` }] : [])),
    hooks: {
      setSelect: [
        (made) => {
          const { left, width: wide } = made.select;
          if (wide < 4) return;
          zoom().set([made.posToVal(left, "x"), made.posToVal(left + wide, "x")]);
          made.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
        },
      ],
      setCursor: [(made) => tellCursor(made, newest.current.props)],
    },
  };
}

function tellCursor(plot: uPlot, { cursor }: PlotProps): void {
  if (cursor === undefined) return;
  const { left = -1, idxs } = plot.cursor;
  if (left < 0 || !idxs) {
    cursor.set(null);
    return;
  }
  const values = plot.data.slice(1).map((column, i) => {
    const index = idxs[i + 1];
    return index === null || index === undefined ? undefined : column[index];
  });
  cursor.set({ x: plot.posToVal(left, "x"), values });
}

/** The place nearest to a place of a column that has a value: lines that share an axis have theirs in different places. */
function nearest(column: ArrayLike<Value>, index: number): number {
  if (column[index] !== undefined) return index;
  for (let away = 1; away < column.length; away += 1) {
    if (index - away >= 0 && column[index - away] !== undefined) return index - away;
    if (index + away < column.length && column[index + away] !== undefined) return index + away;
  }
  return index;
}

function areFew(plot: uPlot, series: number, first: number, last: number): boolean {
  const column = plot.data[series];
  if (column === undefined) return false;
  let count = 0;
  for (let i = first; i <= last && count <= MOST_DOTS; i += 1) if (typeof column[i] === "number") count += 1;
  return count <= MOST_DOTS;
}

/** A part of the curve that lies above the cut as a whole is seen all the same: who zooms there wants to see it. */
function linearRange(low: number | null, high: number | null, top = Infinity): uPlot.Range.MinMax {
  if (low === null || high === null) return [0, 1];
  return uPlot.rangeNum(low, low < top ? Math.min(high, top) : high, 0.08, true);
}

function logRange(_: uPlot, low: number | null, high: number | null): uPlot.Range.MinMax {
  if (low === null || high === null || low <= 0) return [0.1, 1];
  if (low === high) return [low / 2, high * 2];
  // A little room on both sides; whole powers would press a flat curve into one line.
  const room = Math.pow(high / low, 0.06);
  return [low / room, high * room];
}

/** A number of an axis with as many digits as tell it from its neighbours. */
export function tick(value: number | null, all: readonly (number | null)[]): string {
  if (value === null) return "";
  if (value === 0) return "0";
  const shown = all.filter((one): one is number => one !== null);
  const apart = Math.min(...shown.slice(1).map((one, i) => Math.abs(one - (shown[i] ?? 0))).filter((gap) => gap > 0));
  const size = Math.abs(value);
  if (size >= 1e5 || size < 1e-3) {
    const digits = Number.isFinite(apart) ? Math.ceil(Math.log10(size / apart)) : 1;
    return value.toExponential(Math.min(Math.max(digits, 0), 6)).replace(/(\.\d*?)0+e/, "$1e").replace(".e", "e").replace("e+", "e");
  }
  // 0.25 apart takes two decimals, not one.
  const decimals = Number.isFinite(apart) ? Math.ceil(-Math.log10(apart)) + 1 : 4;
  return String(Number(value.toFixed(Math.min(Math.max(decimals, 0), 8))));
}

/** A place on the axis without the dust of floating point. */
function round(value: number, all: readonly number[]): number {
  const apart = Math.abs((all[1] ?? value) - (all[0] ?? 0));
  return apart > 0 ? Number(value.toFixed(Math.min(20, Math.max(0, 1 - Math.floor(Math.log10(apart)))))) : value;
}
