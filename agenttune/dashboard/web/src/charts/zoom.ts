import { useEffect, useMemo, useRef } from "react";

/** From and to, on the axis of a chart. */
export type Range = readonly [number, number];

const SETTLE_MS = 200;
/** So many times may one zoom into the whole. */
const DEEPEST = 1e7;

/**
 * What several charts show of their common axis.
 *
 * It changes at once, many times a second, without React: charts redraw what they have, at most once a frame. What
 * they ask of the server follows when it has settled.
 */
export class Zoom {
  private wanted: Range | null = null;
  private frame: number | null = null;
  private whole: Range = [0, 1];
  private readonly watchers = new Set<() => void>();

  /** What is shown; the whole axis where nobody has zoomed. */
  get shown(): Range {
    return this.wanted ?? this.whole;
  }

  /** What was zoomed to; null: the whole. */
  get range(): Range | null {
    return this.wanted;
  }

  /** How far the data goes; it grows while a run goes on. */
  setWhole([low, high]: Range): void {
    const next: Range = high > low ? [low, high] : [low, low + 1];
    if (next[0] === this.whole[0] && next[1] === this.whole[1]) return;
    this.whole = next;
    if (this.wanted === null) this.tellSoon();
  }

  set(range: Range | null): void {
    this.wanted = range === null ? null : this.within(range);
    this.tellSoon();
  }

  /** Closer (`factor` under 1) or further away, with the place `at` (a share of the width) staying where it is. */
  by(factor: number, at = 0.5): void {
    const [low, high] = this.shown;
    const center = low + at * (high - low);
    this.set([center - (center - low) * factor, center + (high - center) * factor]);
  }

  /** To the side, by a share of the width. */
  pan(share: number): void {
    const [low, high] = this.shown;
    const [first, last] = this.whole;
    const by = Math.min(Math.max(share * (high - low), first - low), last - high);
    if (this.wanted !== null) this.set([low + by, high + by]);
  }

  subscribe = (watcher: () => void): (() => void) => {
    this.watchers.add(watcher);
    return () => this.watchers.delete(watcher);
  };

  private within([from, to]: Range): Range | null {
    const [first, last] = this.whole;
    const least = (last - first) / DEEPEST;
    const low = Math.max(first, Math.min(from, to));
    const high = Math.min(last, Math.max(from, to));
    if (low <= first && high >= last) return null;
    return high - low < least ? [low, low + least] : [low, high];
  }

  private tellSoon(): void {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      for (const watcher of this.watchers) watcher();
    });
  }
}

/**
 * A zoom that charts of a page share.
 *
 * @param whole How far the axis goes.
 * @param range What is to be seen, such as from the URL.
 * @param onSettled Told once nobody zooms any more.
 */
export function useZoom(whole: Range, range: Range | null, onSettled: (range: Range | null) => void): Zoom {
  const zoom = useMemo(() => new Zoom(), []);
  const told = useRef(onSettled);
  const [first, last] = whole;
  const [low, high] = range ?? [null, null];
  useEffect(() => {
    told.current = onSettled;
  });
  useEffect(() => {
    zoom.setWhole([first, last]);
    zoom.set(low === null ? null : [low, high]);
  }, [zoom, first, last, low, high]);
  useEffect(() => {
    let timer: number | undefined;
    const stop = zoom.subscribe(() => {
      window.clearTimeout(timer);
      timer = window.setTimeout(() => told.current(zoom.range), SETTLE_MS);
    });
    return () => {
      window.clearTimeout(timer);
      stop();
    };
  }, [zoom]);
  return zoom;
}
