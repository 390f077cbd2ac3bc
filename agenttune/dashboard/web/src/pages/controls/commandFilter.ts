import type { CommandRecord } from "../../api/schema";

/** What is looked for in the history of commands; empty: all. */
export interface CommandFilter {
  state: string;
  kind: string;
  by: string;
  text: string;
}

export const ALL_STATES = ["proposed", "queued", "applied", "kept", "reverted", "rejected", "failed", "expired", "superseded"];

/** The records that fit, newest first. */
export function found(records: readonly CommandRecord[], filter: CommandFilter): CommandRecord[] {
  const words = filter.text.trim().toLowerCase();
  return records
    .filter(
      (record) =>
        (filter.state === "" || record.state === filter.state) &&
        (filter.kind === "" || record.proposal.command.kind === filter.kind) &&
        (filter.by === "" || record.proposal.author.principal === filter.by) &&
        (words === "" || textOf(record).includes(words)),
    )
    .sort((a, b) => b.submitted_seq - a.submitted_seq);
}

function textOf({ proposal, verdict, ack }: CommandRecord): string {
  const said = [JSON.stringify(proposal.command), proposal.rationale, proposal.author.name, verdict?.reason, verdict?.decided_by, ack?.message];
  return said.filter(Boolean).join("\n").toLowerCase();
}

/** A command's arguments in one line. */
export function argumentsInWords(command: CommandRecord["proposal"]["command"]): string {
  return Object.entries(command)
    .filter(([name, value]) => name !== "kind" && !isEmpty(value))
    .map(([name, value]) => `${name} ${typeof value === "string" ? value : JSON.stringify(value)}`)
    .join(", ");
}

function isEmpty(value: unknown): boolean {
  return value === null || (typeof value === "object" && Object.keys(value).length === 0);
}

/** Why a command did not do what it was for; empty where it did, or is on its way. */
export function errorOf({ state, verdict, ack }: CommandRecord): string {
  if (state === "failed") return ack?.message ?? "It failed.";
  if (state === "expired") return ack?.message ?? verdict?.reason ?? "";
  if (state === "rejected" || state === "superseded") return verdict?.reason ?? "";
  return "";
}
