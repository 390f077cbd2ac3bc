import { useQueryClient, type QueryClient } from "@tanstack/react-query";
import { useCallback, useEffect, useRef, useSyncExternalStore } from "react";

import { keys, type RunPart } from "./queries";
import type { Event, StoredPoint } from "./schema";
import { serverClock } from "./serverClock";

/** How the page stands to its run. */
export type Link = "connecting" | "live" | "catching up" | "away";

/** Frames of the live stream (docs/rest.md); OpenAPI does not describe WebSockets. */
interface EventFrame {
  type: "event";
  event: Event;
}

interface PointsFrame {
  type: "points";
  points: StoredPoint[];
  next: number;
}

export type Frame = EventFrame | PointsFrame;
type EventKind = Event["body"]["kind"];

const FIRST_WAIT_MS = 300;
const LONGEST_WAIT_MS = 10_000;
const SETTLE_MS = 150;
/**
 * A fast training writes rows all the time; curves are asked for only so often. The turn is told by the rows' own time,
 * so that all pages of a run ask in the same moment and the server answers them together.
 */
const ROWS_TURN_S = 3;
const OF_ROWS: readonly RunPart[] = ["series", "curve"];
/** Asked for also while nobody sees the page, as its title counts what waits, and the browser tells of it. */
const TOLD_WHILE_HIDDEN: readonly RunPart[] = ["commands"];
/** An entry older than this when it arrives says that the page is behind. */
const BEHIND_S = 5;

/** Which reads an event makes stale. */
const TOUCHES: Partial<Record<EventKind, readonly RunPart[]>> = {
  evaluated: ["info", "curve", "history", "series"],
  checkpoint_saved: ["checkpoints", "branches"],
  best_state: ["checkpoints"],
  checkpoint_moved: ["checkpoints"],
  checkpoint_labelled: ["checkpoints"],
  checkpoint_deleted: ["checkpoints"],
  branch_started: ["info", "branches", "series", "checkpoints"],
  model_read: ["model"],
  dataset_read: ["dataset"],
  knobs_read: ["knobs", "info"],
  model_called: ["calls"],
  proposed: ["commands", "history", "decision", "guardrails"],
  approval_requested: ["commands", "history", "decision"],
  escalated: ["commands", "decision"],
  judged: ["commands", "history", "decision", "guardrails"],
  acked: ["commands", "history", "decision", "knobs", "info", "guardrails", "model", "dataset"],
  settled: ["commands", "history", "decision"],
  read_back: ["commands", "history", "decision", "knobs"],
};
const ALWAYS: readonly RunPart[] = ["events", "info"];

export function partsTouchedBy(kind: EventKind): readonly RunPart[] {
  return [...ALWAYS, ...(TOUCHES[kind] ?? [])];
}

/**
 * Follows one run over a WebSocket for as long as somebody watches, and resumes after a break where it left off: by
 * the `seq` of the last event and the id of the last row, so that nothing is missed and nothing comes twice.
 */
export class RunFollower {
  private socket: WebSocket | null = null;
  private timer: number | undefined;
  private flush: number | undefined;
  private rowsFlush: number | undefined;
  private rowsTurn: number | undefined;
  private waitMs = FIRST_WAIT_MS;
  private seq: number | null = null;
  private pointsSince: number | null = null;
  private closed = false;
  private stale = new Set<RunPart>();
  private readonly watchers = new Set<() => void>();
  private readonly rowListeners = new Set<(rows: StoredPoint[]) => void>();
  private readonly eventListeners = new Set<(event: Event) => void>();
  link: Link = "connecting";
  newest: StoredPoint | null = null;

  constructor(
    private readonly runId: string,
    private readonly client: QueryClient,
  ) {
    this.connect();
    document.addEventListener("visibilitychange", this.wake);
    window.addEventListener("online", this.wake);
  }

  close(): void {
    this.closed = true;
    document.removeEventListener("visibilitychange", this.wake);
    window.removeEventListener("online", this.wake);
    window.clearTimeout(this.timer);
    window.clearTimeout(this.flush);
    window.clearTimeout(this.rowsFlush);
    this.socket?.close();
  }

  subscribe = (watcher: () => void): (() => void) => {
    this.watchers.add(watcher);
    return () => this.watchers.delete(watcher);
  };

  onRows(listener: (rows: StoredPoint[]) => void): () => void {
    this.rowListeners.add(listener);
    return () => this.rowListeners.delete(listener);
  }

  onEvent(listener: (event: Event) => void): () => void {
    this.eventListeners.add(listener);
    return () => this.eventListeners.delete(listener);
  }

  /** A frame in order; the same one again changes nothing. */
  take(frame: Frame): void {
    if (frame.type === "points") {
      this.takeRows(frame);
      return;
    }
    if (this.seq !== null && frame.event.seq <= this.seq) return;
    this.seq = frame.event.seq;
    this.setLink(serverClock.nowS() - frame.event.at_s > BEHIND_S && this.link !== "live" ? "catching up" : "live");
    for (const listener of this.eventListeners) listener(frame.event);
    for (const part of partsTouchedBy(frame.event.body.kind)) this.stale.add(part);
    this.refreshSoon();
  }

  private takeRows(frame: PointsFrame): void {
    if (this.pointsSince !== null && frame.next <= this.pointsSince) return;
    this.pointsSince = frame.next;
    this.newest = frame.points.at(-1) ?? this.newest;
    for (const listener of this.rowListeners) listener(frame.points);
    this.tell();
    const turn = Math.floor((this.newest?.at_s ?? 0) / ROWS_TURN_S);
    if (turn !== this.rowsTurn) {
      this.rowsTurn = turn;
      this.refreshRows();
    } else this.rowsFlush ??= window.setTimeout(() => this.refreshRows(), ROWS_TURN_S * 1000);
  }

  private refreshRows(): void {
    window.clearTimeout(this.rowsFlush);
    this.rowsFlush = undefined;
    for (const part of OF_ROWS) this.stale.add(part);
    this.refreshSoon();
  }

  private connect(): void {
    const scheme = window.location.protocol === "https:" ? "wss" : "ws";
    const query = new URLSearchParams({ points: "true" });
    if (this.seq === null) query.set("from_now", "true");
    else query.set("since", String(this.seq));
    if (this.pointsSince !== null) query.set("points_since", String(this.pointsSince));
    const path = `/api/v1/runs/${encodeURIComponent(this.runId)}/events/live?${query.toString()}`;
    const socket = new WebSocket(`${scheme}://${window.location.host}${path}`);
    this.socket = socket;
    socket.onopen = () => {
      this.waitMs = FIRST_WAIT_MS;
      // What happened between the page's first reads and now, or while it was away, came over no socket.
      void this.client.invalidateQueries({ queryKey: ["run", this.runId] });
      this.setLink("live");
    };
    socket.onmessage = (message: MessageEvent<string>) => this.take(JSON.parse(message.data) as Frame);
    socket.onclose = () => this.retry();
  }

  private retry(): void {
    if (this.closed) return;
    this.setLink("away");
    this.timer = window.setTimeout(() => this.connect(), this.waitMs);
    this.waitMs = Math.min(this.waitMs * 2, LONGEST_WAIT_MS);
  }

  private readonly wake = (): void => {
    if (document.visibilityState !== "visible" || this.closed) return;
    this.refresh();
    if (this.link !== "away") return;
    window.clearTimeout(this.timer);
    this.connect();
  };

  /** Many events come at once; the reads that they touch are asked again once. */
  private refreshSoon(): void {
    this.flush ??= window.setTimeout(() => {
      this.flush = undefined;
      this.refresh();
      this.tell();
    }, SETTLE_MS);
  }

  /** Ask again for what events have made stale; a page that nobody sees asks for the rest once it is seen. */
  private refresh(): void {
    for (const part of this.stale) {
      if (document.hidden && !TOLD_WHILE_HIDDEN.includes(part)) continue;
      this.stale.delete(part);
      void this.client.invalidateQueries({ queryKey: keys.run(this.runId, part) });
    }
  }

  private setLink(link: Link): void {
    if (link === this.link) return;
    this.link = link;
    this.tell();
  }

  private tell(): void {
    for (const watcher of this.watchers) watcher();
  }
}

const followers = new Map<string, { follower: RunFollower; users: number }>();

function join(runId: string, client: QueryClient): RunFollower {
  const known = followers.get(runId) ?? { follower: new RunFollower(runId, client), users: 0 };
  known.users += 1;
  followers.set(runId, known);
  return known.follower;
}

function leave(runId: string): void {
  const known = followers.get(runId);
  if (known === undefined) return;
  known.users -= 1;
  if (known.users > 0) return;
  followers.delete(runId);
  known.follower.close();
}

/** Follow a run for as long as the component is there; one connection serves all components of a page. */
export function useFollow(runId: string, onEvent?: (event: Event) => void): { link: Link; newest: StoredPoint | null } {
  const client = useQueryClient();
  const listener = useRef(onEvent);
  useEffect(() => {
    listener.current = onEvent;
  });
  useEffect(() => {
    const follower = join(runId, client);
    const stop = follower.onEvent((event) => listener.current?.(event));
    return () => {
      stop();
      leave(runId);
    };
  }, [runId, client]);
  const subscribe = useCallback(
    (watcher: () => void) => followers.get(runId)?.follower.subscribe(watcher) ?? (() => undefined),
    [runId],
  );
  const link = useSyncExternalStore(subscribe, () => followers.get(runId)?.follower.link ?? "connecting");
  const newest = useSyncExternalStore(subscribe, () => followers.get(runId)?.follower.newest ?? null);
  return { link, newest };
}
