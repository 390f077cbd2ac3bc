import type { Event, Events } from "../../api/schema";

/** Entries that are at hand: a part of the log without gaps, among those that the filter lets through. */
export interface LogWindow {
  events: readonly Event[];
  /** Cursor for what precedes; 0: nothing does. */
  previous: number;
  /** Cursor for what follows. */
  next: number;
  /** Whether it reaches to the end of the log, as it was when last asked. */
  hasTail: boolean;
}

export const PAGE = 200;
/** Entries at hand; more are forgotten at the far end, and asked again. */
export const MOST = 4000;

export function firstWindow(page: Events, anchor: number | null): LogWindow {
  // A page after a cursor that found nothing cannot say what precedes; the cursor can.
  const previous = page.events.length === 0 && anchor !== null ? page.next + 1 : page.previous;
  return { events: page.events, previous, next: page.next, hasTail: anchor === null || page.events.length < PAGE };
}

/** With a page of later entries; one that is known already is not taken twice. */
export function appended(known: LogWindow, page: Events): LogWindow {
  const last = known.events.at(-1)?.seq ?? 0;
  const all = [...known.events, ...page.events.filter(({ seq }) => seq > last)];
  const events = all.slice(-MOST);
  const dropped = events.length < all.length;
  return { events, previous: dropped ? (events[0]?.seq ?? 0) : known.previous, next: Math.max(page.next, known.next), hasTail: page.events.length < PAGE };
}

/** With a page of earlier entries. */
export function prepended(known: LogWindow, page: Events): LogWindow {
  const first = known.events[0]?.seq ?? Infinity;
  const all = [...page.events.filter(({ seq }) => seq < first), ...known.events];
  const events = all.slice(0, MOST);
  const dropped = events.length < all.length;
  return { events, previous: page.previous, next: dropped ? (events.at(-1)?.seq ?? known.next) : known.next, hasTail: known.hasTail && !dropped };
}

/** By how many rows what was seen moved down; negative: up. */
export function movedRows(before: readonly Event[], after: readonly Event[]): number {
  const was = before[0]?.seq;
  const is = after[0]?.seq;
  if (was === undefined || is === undefined || was === is) return 0;
  if (is < was) return after.findIndex(({ seq }) => seq >= was);
  const kept = before.findIndex(({ seq }) => seq >= is);
  return kept < 0 ? 0 : -kept;
}
