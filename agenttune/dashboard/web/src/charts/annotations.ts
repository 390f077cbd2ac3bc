import type uPlot from "uplot";

/** A line across a chart, at a place of its axis. */
export interface Mark {
  at: number;
  color: string;
  strong?: boolean;
}

/** A stretch of the axis that is shaded. */
export interface Span {
  from: number;
  to: number;
  color: string;
}

export interface Annotations {
  marks?: readonly Mark[];
  spans?: readonly Span[];
  /** Places where values were not finite: a small cross at the foot of the chart. */
  broken?: readonly number[];
}

const CROSS_PX = 3;
const BROKEN_COLOR = "#e03131";

/** Draws what is said of places on the axis: shades below the lines, marks above them. */
export function annotationsPlugin(newest: () => Annotations): uPlot.Plugin {
  return {
    hooks: {
      drawClear: [(plot) => drawSpans(plot, newest().spans ?? [])],
      draw: [
        (plot) => {
          drawMarks(plot, newest().marks ?? []);
          drawBroken(plot, newest().broken ?? []);
        },
      ],
    },
  };
}

function drawSpans(plot: uPlot, spans: readonly Span[]): void {
  const { ctx, bbox } = plot;
  for (const { from, to, color } of spans) {
    const left = Math.max(bbox.left, plot.valToPos(from, "x", true));
    const right = Math.min(bbox.left + bbox.width, plot.valToPos(to, "x", true));
    if (right <= left) continue;
    ctx.fillStyle = color;
    ctx.fillRect(left, bbox.top, right - left, bbox.height);
  }
}

function drawMarks(plot: uPlot, marks: readonly Mark[]): void {
  const { ctx, bbox } = plot;
  const unit = window.devicePixelRatio;
  ctx.save();
  for (const { at, color, strong = false } of marks) {
    const x = Math.round(plot.valToPos(at, "x", true)) + 0.5;
    if (x < bbox.left || x > bbox.left + bbox.width) continue;
    ctx.strokeStyle = color;
    ctx.globalAlpha = strong ? 1 : 0.55;
    ctx.lineWidth = (strong ? 2 : 1) * unit;
    ctx.setLineDash(strong ? [] : [4 * unit, 4 * unit]);
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
  }
  ctx.restore();
}

function drawBroken(plot: uPlot, places: readonly number[]): void {
  const { ctx, bbox } = plot;
  const size = CROSS_PX * window.devicePixelRatio;
  const foot = bbox.top + bbox.height - 2 * size;
  ctx.save();
  ctx.strokeStyle = BROKEN_COLOR;
  ctx.lineWidth = 1.5 * window.devicePixelRatio;
  ctx.beginPath();
  let last = -Infinity;
  for (const at of places) {
    const x = plot.valToPos(at, "x", true);
    if (x < bbox.left || x > bbox.left + bbox.width || x - last < 2 * size) continue;
    last = x;
    ctx.moveTo(x - size, foot - size);
    ctx.lineTo(x + size, foot + size);
    ctx.moveTo(x + size, foot - size);
    ctx.lineTo(x - size, foot + size);
  }
  ctx.stroke();
  ctx.restore();
}
