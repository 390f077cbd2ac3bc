import { useEffect, useRef } from "react";

import { useCommands } from "../../api/queries";
import { waitingIn, type Waiting } from "./facts";

/** What waits in a run for a decision. On every page of the run the title counts it, and the browser tells of more. */
export function useWaiting(runId: string, name: string): Waiting[] {
  const waiting = waitingIn(useCommands(runId).data?.commands ?? []);
  const count = waiting.length;
  const newest = waiting.at(-1);
  const known = useRef<number | null>(null);
  useEffect(() => {
    document.title = `${count > 0 ? `(${count}) ` : ""}${name.slice(0, 60)} – agenttune`;
    return () => {
      document.title = "agenttune";
    };
  }, [count, name]);
  const seq = newest?.submitted_seq ?? 0;
  const words = newest === undefined ? "" : `${newest.proposal.author.name.slice(0, 60)} asks for ${newest.proposal.command.kind.replaceAll("_", " ")}`;
  useEffect(() => {
    const before = known.current;
    known.current = Math.max(seq, before ?? 0);
    if (before === null || seq <= before || !document.hidden || !mayNotify()) return;
    new Notification(`A decision waits: ${name.slice(0, 60)}`, { body: words, tag: `agenttune-${seq}` });
  }, [seq, words, name]);
  return waiting;
}

export function canNotify(): boolean {
  return "Notification" in window;
}

export function mayNotify(): boolean {
  return canNotify() && Notification.permission === "granted";
}
