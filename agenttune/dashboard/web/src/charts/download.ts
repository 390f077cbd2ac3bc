import type uPlot from "uplot";

import { told } from "../components/numbers";
import type { AxisCurve } from "../api/schema";
import type { Line } from "./Plot";

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

/** Curves as rows; what a spreadsheet would take for a formula is told as text. */
export function csvOf(curves: readonly AxisCurve[], axis: string): string {
  const rows = [["metric", "branch", "step", ...(axis === "step" ? [] : [axis]), "mean", "low", "high", "not_finite", "points_at_most"]];
  for (const curve of curves) {
    curve.steps.forEach((step, i) => {
      const place = axis === "step" ? [] : [String(curve.x[i] ?? "")];
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
  named.forEach(({ label, color }, i) => {
    const y = (MARGIN_PX + LINE_PX * (i + 1)) * unit;
    ctx.fillStyle = color;
    ctx.fillRect(MARGIN_PX * unit, y + 6 * unit, 16 * unit, 3 * unit);
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
