import type { CommandRecord, Verdict } from "../../api/schema";
import { shownValue } from "./values";

/** The gate judges by what it knows of the run; values of layers and datasets, say, are the trainer's own to check. */
const TRAINER = " The trainer checks it once more, and may still refuse it.";

export function isRefusal({ decision }: Pick<Verdict, "decision">): boolean {
  return decision !== "approved" && decision !== "edited";
}

/** What the gate says of a command that was not sent, in sentences. */
export function verdictInWords({ decision, decided_by: by, reason, nearest_allowed: nearest }: Verdict): string {
  const why = reason ? `: ${sentence(reason)}` : ".";
  const allowed = nearest ? ` Nearest that is allowed: ${valuesInWords(nearest)}.` : "";
  switch (decision) {
    case "approved":
      return `The gate lets it pass (${by})${why}${TRAINER}`;
    case "edited":
      return `The gate lets it pass with other values (${by})${why}${TRAINER}`;
    default:
      return `The gate does not let it pass (${by})${why}${allowed}`;
  }
}

export interface Outcome {
  text: string;
  color: "teal" | "red" | "yellow" | "blue";
  isFinal: boolean;
}

/** How far a command has come, in a sentence. */
export function outcomeInWords({ state, verdict, ack }: CommandRecord): Outcome {
  const because = verdict?.reason ? ` ${verdict.reason}` : "";
  switch (state) {
    case "proposed":
      return { text: "It waits for a decision, under Approvals.", color: "yellow", isFinal: false };
    case "queued":
      return { text: "Allowed; the trainer applies it at its next step.", color: "blue", isFinal: false };
    case "rejected":
      return { text: `Rejected by ${verdict?.decided_by ?? "the gate"}.${because}`, color: "red", isFinal: true };
    case "superseded":
      return { text: `Superseded.${because}`, color: "yellow", isFinal: true };
    case "failed":
    case "expired":
      return { text: `${state === "failed" ? "Failed" : "Expired"}: ${ack?.message ?? because}`, color: "red", isFinal: true };
    case "applied":
    case "kept":
      return { text: appliedInWords(ack), color: "teal", isFinal: true };
    case "reverted":
      return { text: `${appliedInWords(ack)} It was reverted.`, color: "yellow", isFinal: true };
  }
}

function appliedInWords(ack: CommandRecord["ack"]): string {
  if (!ack) return "Applied.";
  const changes = (ack.changes ?? []).map(
    ({ name, previous, effective }) => `${name}: ${shownValue(previous)} → ${shownValue(effective)}`,
  );
  return [`Applied at step ${ack.step}.`, sentence(changes.join("; ")), ack.message].filter(Boolean).join(" ");
}

/** With the full stop that the next sentence needs; empty stays empty. */
function sentence(text: string): string {
  return text === "" || /[.!?…]$/.test(text) ? text : `${text}.`;
}

/** Arguments by name, as they can be typed in: with all their digits. */
function valuesInWords(values: Readonly<Record<string, unknown>>): string {
  return Object.entries(values)
    .map(([name, value]) => `${name} ${typeof value === "number" && Math.abs(value) < 1e-3 && value !== 0 ? value.toExponential() : typeof value === "string" ? value : JSON.stringify(value)}`)
    .join(", ");
}
