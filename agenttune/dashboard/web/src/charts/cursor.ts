import type { Value } from "./traces";

/** Where the cross-hair of a chart stands, and the value of each line there. */
export interface CursorAt {
  x: number;
  values: readonly Value[];
}

/** Tells the words beside a chart what is under its cross-hair, without drawing the chart anew. */
export class Cursor {
  private newest: CursorAt | null = null;
  private readonly watchers = new Set<() => void>();

  get at(): CursorAt | null {
    return this.newest;
  }

  set(at: CursorAt | null): void {
    if (at === null && this.newest === null) return;
    this.newest = at;
    for (const watcher of this.watchers) watcher();
  }

  subscribe = (watcher: () => void): (() => void) => {
    this.watchers.add(watcher);
    return () => this.watchers.delete(watcher);
  };
}
