import type { Effect, Intervention, State } from "../../api/schema";
import { told, type Metric } from "../numbers";

/** A command's kind as people say it. */
export function toldKind(kind: string): string {
  return kind.replaceAll("_", " ");
}

/** Any value of a command or an ack, in one line. */
export function toldValue(value: unknown): string {
  if (value === null || value === undefined) return "–";
  if (typeof value === "number") return told(value);
  if (typeof value === "string") return value;
  return JSON.stringify(value);
}

/** "lr 0.1 -> 0.01" with a proper arrow. */
export function withArrows(text: string): string {
  return text.replaceAll("->", "→");
}

export const VERDICTS: Record<Effect["verdict"], { word: string; color: string; sign: string }> = {
  better: { word: "It helped", color: "teal", sign: "▲" },
  worse: { word: "It did harm", color: "red", sign: "▼" },
  "no clear effect": { word: "No clear effect", color: "gray", sign: "≈" },
  "not known": { word: "Not known", color: "gray", sign: "?" },
};

/** What a change did against what was to be expected without it, in one line. */
export function effectWords(effect: Effect): string {
  const { verdict, metric, found, expected, low, high, until_step: until, reason } = effect;
  if (verdict === "not known") return reason;
  const known = (value: Metric | null | undefined): value is Metric => value !== null && value !== undefined;
  if (!known(found) || !known(expected)) return `${metric} ${reason}`.trim();
  const band = known(low) && known(high) ? ` (between ${told(low)} and ${told(high)})` : "";
  const end = known(until) ? `, up to step ${told(until)}` : "";
  return `${metric} came to ${told(found)}; without it ${told(expected)} was to be expected${band}${end}.`;
}

export const STATES: Record<State, { color: string; sign: string; says: string }> = {
  proposed: { color: "orange", sign: "?", says: "waits for a decision" },
  rejected: { color: "gray", sign: "×", says: "was rejected" },
  superseded: { color: "gray", sign: "×", says: "was superseded" },
  queued: { color: "blue", sign: "…", says: "is on its way to the trainer" },
  applied: { color: "blue", sign: "●", says: "was applied" },
  failed: { color: "red", sign: "!", says: "failed" },
  expired: { color: "gray", sign: "×", says: "came too late" },
  kept: { color: "teal", sign: "✓", says: "was applied and kept" },
  reverted: { color: "red", sign: "↩", says: "was applied and taken back" },
};

/** The step at which a command stands in a chart: where it took effect, else where it was asked for. */
export function stepOf(intervention: Intervention): number {
  return intervention.applied_at_step ?? intervention.proposed_at_step ?? 0;
}

/** When something was done, for the head of its story. A return happens at one step and leads to another. */
export function whenInWords({ applied_at_step: step, result }: Pick<Intervention, "applied_at_step" | "result">): string {
  if (typeof step !== "number") return "";
  const from = result?.from_step;
  return typeof from === "number" ? `Step ${told(from)}, back to step ${told(step)}: ` : `Step ${told(step)}: `;
}
