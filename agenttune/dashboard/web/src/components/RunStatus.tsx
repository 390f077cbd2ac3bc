import type { CSSProperties } from "react";

import type { RunInfo } from "../api/schema";

const COLORS: Record<RunInfo["status"], string> = {
  starting: "gray",
  running: "blue",
  paused: "yellow",
  finished: "teal",
  stopped: "gray",
  interrupted: "orange",
  failed: "red",
  lost: "red",
};
/** As Mantine's light badge, which is too heavy for a list that is scrolled by many rows a frame. */
const PILL: CSSProperties = { display: "inline-block", flexShrink: 0, padding: "0 8px", borderRadius: 1000, fontSize: 11, fontWeight: 700, lineHeight: "20px", textTransform: "uppercase", whiteSpace: "nowrap" };
const STYLES = Object.fromEntries(
  Object.entries(COLORS).map(([status, color]) => [status, { ...PILL, background: `var(--mantine-color-${color}-light)`, color: `var(--mantine-color-${color}-light-color)` }]),
);

export function RunStatus({ status }: { status: RunInfo["status"] }) {
  return <span style={STYLES[status]}>{status}</span>;
}

export function isLive(status: RunInfo["status"]): boolean {
  return status === "starting" || status === "running" || status === "paused";
}
