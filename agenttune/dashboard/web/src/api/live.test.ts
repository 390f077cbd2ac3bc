import { QueryClient } from "@tanstack/react-query";
import { afterEach, beforeEach, expect, test, vi } from "vitest";

import { RunFollower, type Frame } from "./live";
import type { StoredPoint } from "./schema";

class Socket {
  static opened: Socket[] = [];
  onopen: (() => void) | null = null;
  onmessage: ((message: { data: string }) => void) | null = null;
  onclose: (() => void) | null = null;

  constructor(readonly address: string) {
    Socket.opened.push(this);
  }

  close(): void {
    this.onclose?.();
  }
}

const row = (id: number): StoredPoint => ({ point_id: id, step: id, at_s: id / 5, branch: "main", source: "step", values: { loss: 1 } });
const rows = (id: number): Frame => ({ type: "points", points: [row(id)], next: id });
const event = (seq: number, kind: string): Frame => ({ type: "event", event: { seq, at_s: Date.now() / 1000, step: 1, branch: "main", body: { kind } } }) as Frame;

let asked: string[];
let follower: RunFollower;

beforeEach(() => {
  vi.useFakeTimers();
  vi.stubGlobal("WebSocket", Socket);
  Socket.opened = [];
  asked = [];
  const client = new QueryClient();
  vi.spyOn(client, "invalidateQueries").mockImplementation((filters) => {
    asked.push(filters?.queryKey?.[2] as string);
    return Promise.resolve();
  });
  follower = new RunFollower("one", client);
});
afterEach(() => {
  follower.close();
  hide(false);
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

function hide(hidden: boolean): void {
  Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
  Object.defineProperty(document, "visibilityState", { value: hidden ? "hidden" : "visible", configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}

test("a fast training's rows are shown at once, and curves asked for every three seconds, the last ones too", () => {
  for (let id = 1; id <= 50; id++) {
    follower.take(rows(id));
    expect(follower.newest?.step).toBe(id);
    vi.advanceTimersByTime(200);
  }
  const meanwhile = asked.filter((part) => part === "curve").length;
  expect(meanwhile).toBeGreaterThan(2);
  expect(meanwhile).toBeLessThan(6);
  asked = [];
  vi.advanceTimersByTime(5000);
  expect(asked).toEqual(["series", "curve"]);
});

test("two pages of a run ask in the same moment, whenever each was opened", () => {
  follower.take(rows(1));
  vi.advanceTimersByTime(1000);
  const second: string[] = [];
  const client = new QueryClient();
  vi.spyOn(client, "invalidateQueries").mockImplementation((filters) => {
    second.push(filters?.queryKey?.[2] as string);
    return Promise.resolve();
  });
  const other = new RunFollower("one", client);
  other.take(rows(2));
  vi.advanceTimersByTime(200);
  asked = [];
  second.length = 0;
  for (const page of [follower, other]) page.take(rows(16));
  vi.advanceTimersByTime(200);
  expect(second).toEqual(asked);
  expect(asked).toContain("curve");
  other.close();
});

test("events that come together are one reading of what they touch, soon", () => {
  follower.take(event(1, "acked"));
  follower.take(event(2, "acked"));
  follower.take(event(2, "acked"));
  vi.advanceTimersByTime(200);
  expect(asked.filter((part) => part === "commands")).toHaveLength(1);
  expect(asked).toContain("knobs");
});

test("a page that nobody sees asks only for what its title tells, and for the rest once it is seen", () => {
  hide(true);
  follower.take(event(1, "approval_requested"));
  follower.take(rows(1));
  vi.advanceTimersByTime(5000);
  expect(asked).toEqual(["commands"]);
  hide(false);
  expect(new Set(asked)).toEqual(new Set(["commands", "events", "info", "history", "decision", "series", "curve"]));
});

test("after a break it goes on behind what it has seen, and takes nothing twice", () => {
  Socket.opened[0]?.onopen?.();
  follower.take(event(7, "acked"));
  follower.take(rows(40));
  Socket.opened[0]?.onclose?.();
  expect(follower.link).toBe("away");
  vi.advanceTimersByTime(1000);
  const again = new URL(Socket.opened[1]?.address ?? "");
  expect([again.searchParams.get("since"), again.searchParams.get("points_since")]).toEqual(["7", "40"]);
  const heard = vi.fn();
  follower.onEvent(heard);
  follower.take(event(7, "acked"));
  follower.take(event(8, "acked"));
  expect(heard).toHaveBeenCalledTimes(1);
});
