import { describe, expect, it } from "vitest";

import type { Event, Events } from "../../api/schema";
import { appended, firstWindow, MOST, movedRows, PAGE, prepended } from "./logWindow";

const event = (seq: number): Event => ({ seq, at_s: seq, step: seq, branch: "main", body: { kind: "note_added", text: `n${seq}`, author: "" } });
const page = (from: number, to: number): Events => {
  const events = Array.from({ length: Math.max(to - from + 1, 0) }, (_, at) => event(from + at));
  return { events, next: to, previous: from > 1 ? from : 0 };
};
const seqs = (events: readonly Event[]) => events.map(({ seq }) => seq);

describe("a window on the log", () => {
  it("grows in both directions without gaps, and takes nothing twice", () => {
    let window = firstWindow(page(401, 600), null);
    window = prepended(window, page(201, 400));
    window = appended(window, page(599, 605));
    expect(seqs(window.events)).toEqual(seqs(page(201, 605).events));
    expect(window).toMatchObject({ previous: 201, next: 605, hasTail: true });
  });

  it("forgets the far end when it grows too long, and knows where to ask again", () => {
    let window = firstWindow(page(1, PAGE), 1);
    for (let from = PAGE + 1; from <= MOST + PAGE; from += PAGE) window = appended(window, page(from, from + PAGE - 1));
    expect(window.events).toHaveLength(MOST);
    expect(window.previous).toBe(PAGE + 1);
    const back = prepended(window, page(1, PAGE));
    expect(back).toMatchObject({ previous: 0, next: MOST, hasTail: false });
  });

  it("can go back from a moment after which nothing passes the filter", () => {
    expect(firstWindow({ events: [], next: 500, previous: 0 }, 500).previous).toBe(501);
  });

  it("says how far what was seen moved", () => {
    expect(movedRows(page(5, 9).events, page(2, 9).events)).toBe(3);
    expect(movedRows(page(5, 9).events, page(7, 12).events)).toBe(-2);
    expect(movedRows(page(5, 9).events, page(5, 12).events)).toBe(0);
  });
});
