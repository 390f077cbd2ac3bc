import type { Approval, ApprovalRequest, CommandRecord } from "../../api/schema";
import { told, toldDuration, toldUsd } from "../../components/numbers";

export type Waiting = CommandRecord & { request: ApprovalRequest };

export function isWaiting(record: CommandRecord): record is Waiting {
  return record.state === "proposed" && !!record.request;
}

/** Requests that wait for a decision, the oldest first. */
export function waitingIn(records: readonly CommandRecord[]): Waiting[] {
  return records
    .filter(isWaiting)
    .sort((a, b) => a.submitted_seq - b.submitted_seq);
}

/** Those that waited for a decision and have one, the newest first. */
export function decidedIn(records: readonly CommandRecord[], most = 5): CommandRecord[] {
  return records
    .filter(({ request, verdict }) => request && verdict)
    .sort((a, b) => b.submitted_seq - a.submitted_seq)
    .slice(0, most);
}

/** Whose turn it is to decide. */
export function askedOf({ approvers, passed = [] }: ApprovalRequest): string {
  return approvers[passed.length] ?? "nobody";
}

/** Who is asked next, once this one leaves it to others; empty: nobody, and then it is rejected. */
export function askedNext({ approvers, passed = [] }: ApprovalRequest): string {
  return approvers[passed.length + 1] ?? "";
}

/** What happens if nobody answers, and when. */
export function silenceInWords(request: ApprovalRequest, nowS: number): string {
  const isApproved = request.on_timeout === "approve" && askedOf(request) === "human";
  const left = request.expires_at_s - nowS;
  const when = left > 0 ? `in ${toldDuration(left)}` : "now";
  return `If nobody answers, ${isApproved ? "it is approved" : "it is not done, and recorded as expired"} ${when}.`;
}

/** What waiting has cost so far. */
export function costInWords({ steps_per_s: pace, usd_per_hour: price }: Omit<Approval, "record" | "now_s">, request: ApprovalRequest, nowS: number): string {
  const waited = Math.max(0, Math.min(nowS, request.expires_at_s) - request.requested_at_s);
  if (request.training !== "pause") return `Training goes on meanwhile; asked ${toldDuration(waited)} ago.`;
  const spent = [
    ...(typeof pace === "number" ? [`about ${told(Math.round(waited * pace))} steps`] : []),
    ...(typeof price === "number" ? [toldUsd((waited / 3600) * price)] : []),
  ];
  return `Training is held meanwhile: ${toldDuration(waited)} so far${spent.length > 0 ? ` (${spent.join(", ")})` : ""}.`;
}

/** How far the run has moved since the request was made. */
export function stalenessInWords(request: ApprovalRequest, basedOn: number | null | undefined, step: number): string {
  const seen = basedOn === null || basedOn === undefined ? "" : `, on what was seen at step ${told(basedOn)}`;
  const moved = step - request.step;
  const since = moved <= 0 ? "the run has not moved on since" : `the run has moved on ${told(moved)} step${moved === 1 ? "" : "s"}`;
  return `Asked at step ${told(request.step)}${seen}; ${since}.`;
}

/** Who decided what, in a sentence. */
export function decidedInWords({ proposal, verdict, state }: CommandRecord): string {
  const kind = proposal.command.kind.replaceAll("_", " ");
  if (!verdict) return `${kind} is ${state}.`;
  const later = state === verdict.decision || state === "queued" ? "" : ` It is ${state} now.`;
  return `${kind} was ${verdict.decision} by ${verdict.decided_by}${verdict.reason ? `: ${verdict.reason}` : "."}${later}`;
}
