import type { Event } from "../../api/schema";

export type EventOf<K extends Event["body"]["kind"]> = Event & { body: Extract<Event["body"], { kind: K }> };

/** Looks in a row that changed nothing, newest first, with the calls of models that they took. */
export interface Looks {
  kind: "looks";
  looks: EventOf<"decided">[];
  calls: EventOf<"model_called">[];
}

/** One line of the timeline: something that happened, or several looks in a row that changed nothing. */
export type Entry = { kind: "event"; event: Event } | Looks;

export function isOf<K extends Event["body"]["kind"]>(event: Event, kind: K): event is EventOf<K> {
  return event.body.kind === kind;
}

/** Whether a look asked for something, or failed: then it is told by itself. */
function speaks(event: EventOf<"decided">): boolean {
  const { command_ids: ids, faults, unusable } = event.body;
  return (ids?.length ?? 0) > 0 || (faults?.length ?? 0) > 0 || unusable;
}

/** Events of the agent, newest first, with looks that changed nothing folded into one entry, their calls with them. */
export function entriesOf(events: readonly Event[]): Entry[] {
  const found: Entry[] = [];
  // A look is written after the calls that it took, so that, newest first, they follow it.
  let isQuiet = false;
  for (const event of [...events].reverse()) {
    const last = found.at(-1);
    if (isOf(event, "decided")) {
      isQuiet = !speaks(event);
      if (!isQuiet) found.push({ kind: "event", event });
      else if (last?.kind === "looks") last.looks.push(event);
      else found.push({ kind: "looks", looks: [event], calls: [] });
    } else if (isOf(event, "model_called") && isQuiet && !event.body.error && last?.kind === "looks") {
      last.calls.push(event);
    } else {
      isQuiet = false;
      found.push({ kind: "event", event });
    }
  }
  return found;
}
