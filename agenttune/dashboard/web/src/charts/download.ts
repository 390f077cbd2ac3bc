import type uPlot from "uplot";

import { asNumber, told } from "../components/numbers";
import type { AxisCurve } from "../api/schema";
import type { Line } from "./Plot";
import type { Axis } from "./useCurves";
import type { Range } from "./zoom";

const MARGIN_PX = 12;
const LINE_PX = 18;
const FREED_MS = 10_000;

/** Hands a file to whoever looks at the page. */
export function download(name: string, content: Blob): void {
  const url = URL.createObjectURL(content);
  const link = document.createElement("a");
  link.href = url;
  link.download = fileName(name);
  link.click();
  window.setTimeout(() => URL.revokeObjectURL(url), FREED_MS);
}

/** A name that any system takes, of one that somebody chose. */
export function fileName(text: string): string {
  const dot = text.lastIndexOf(".");
  const [stem, end] = [text.slice(0, dot), text.slice(dot)];
  return `${stem.replaceAll(/[^A-Za-z0-9._-]+/g, "_").slice(0, 100) || "chart"}${end}`;
}

/** What of curves is saved as rows. */
export interface Seen {
  axis: Axis;
  /** What is seen of the axis; null: all. */
  range: Range | null;
  /** What the axis begins at: places on it are that much less than the server's. */
  shift: number;
}

const PLACES: Record<Axis, string> = { step: "step", epoch: "epoch", time: "time_s", tokens: "tokens" };

/** Curves as rows, those that are seen; what a spreadsheet would take for a formula is told as text. */
export function csvOf(curves: readonly AxisCurve[], { axis, range, shift }: Seen): string {
  const rows = [["metric", "branch", "step", ...(axis === "step" ? [] : [PLACES[axis]]), "mean", "low", "high", "not_finite", "points_at_most"]];
  for (const curve of curves) {
    curve.steps.forEach((step, i) => {
      const x = (asNumber(curve.x[i]) ?? NaN) - shift;
      if (!Number.isFinite(x) || (range !== null && (x < range[0] || x > range[1]))) return;
      const place = axis === "step" ? [] : [String(Number(x.toFixed(6)))];
      const values = [curve.mean[i], curve.low[i], curve.high[i], curve.nonfinite[i], curve.bucket_points];
      rows.push([curve.name, curve.branch, String(step), ...place, ...values.map((value) => String(value ?? ""))]);
    });
  }
  return rows.map((row) => row.map(cell).join(",")).join("\r\n");
}

function cell(text: string): string {
  const isNumber = text !== "" && Number.isFinite(Number(text));
  const safe = !isNumber && /^[=+\-@\t\r]/.test(text) && !/^-Infinity$/.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

/** A chart as a picture, with its title and the names of its lines. */
export async function pngOf(plot: uPlot, title: string, lines: readonly Line[]): Promise<Blob> {
  const source = plot.ctx.canvas;
  const unit = window.devicePixelRatio;
  const named = lines.filter(({ quiet, faint }) => !quiet && !faint);
  const head = (MARGIN_PX + LINE_PX * (1 + named.length)) * unit;
  const canvas = document.createElement("canvas");
  canvas.width = source.width + 2 * MARGIN_PX * unit;
  canvas.height = source.height + head + MARGIN_PX * unit;
  const ctx = canvas.getContext("2d");
  if (ctx === null) throw new Error("This browser draws no pictures.");
  const style = getComputedStyle(document.body);
  ctx.fillStyle = style.backgroundColor;
  ctx.fillRect(0, 0, canvas.width, canvas.height);
  ctx.fillStyle = style.color;
  ctx.textBaseline = "top";
  ctx.font = `600 ${14 * unit}px system-ui, sans-serif`;
  ctx.fillText(title.slice(0, 200), MARGIN_PX * unit, MARGIN_PX * unit);
  ctx.font = `${12 * unit}px system-ui, sans-serif`;
  ctx.lineWidth = 3 * unit;
  named.forEach(({ label, color, dashed }, i) => {
    const y = (MARGIN_PX + LINE_PX * (i + 1)) * unit;
    ctx.strokeStyle = color;
    ctx.setLineDash(dashed ? [5 * unit, 3 * unit] : []);
    ctx.beginPath();
    ctx.moveTo(MARGIN_PX * unit, y + 7.5 * unit);
    ctx.lineTo((MARGIN_PX + 16) * unit, y + 7.5 * unit);
    ctx.stroke();
    ctx.fillStyle = style.color;
    ctx.fillText(label.slice(0, 200), (MARGIN_PX + 22) * unit, y);
  });
  ctx.drawImage(source, MARGIN_PX * unit, head);
  return new Promise((resolve, reject) => {
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("The picture could not be made."))), "image/png");
  });
}

/** How a place on an axis is told. */
export function axisFormat(axis: string, duration: (seconds: number) => string): (x: number) => string {
  return axis === "time" ? (x) => (x < 1 ? "0 s" : duration(x)) : (x) => told(axis === "epoch" ? Number(x.toFixed(3)) : Math.round(x));
}
