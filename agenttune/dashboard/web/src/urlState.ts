import { useCallback, useMemo } from "react";
import { useLocation, useSearch } from "wouter";

/**
 * A part of what is looked at, kept in the URL so that a colleague with the link sees the same.
 *
 * Empty values are left out of the URL. A change replaces the entry of the browser's history.
 */
export function useUrlState(name: string, fallback = ""): [string, (value: string) => void] {
  const search = useSearch();
  const [path, go] = useLocation();
  const value = new URLSearchParams(search).get(name) ?? fallback;
  const set = useCallback(
    (next: string) => {
      const params = new URLSearchParams(window.location.search);
      if (next === "" || next === fallback) params.delete(name);
      else params.set(name, next);
      const query = params.toString();
      go(query ? `${path}?${query}` : path, { replace: true });
    },
    [name, fallback, path, go],
  );
  return [value, set];
}

/** Sets several of them at once. */
export function useUrlStates(): (values: Readonly<Record<string, string>>) => void {
  const [path, go] = useLocation();
  return useCallback(
    (values) => {
      const params = new URLSearchParams(window.location.search);
      for (const [name, value] of Object.entries(values)) {
        if (value === "") params.delete(name);
        else params.set(name, value);
      }
      const query = params.toString();
      go(query ? `${path}?${query}` : path, { replace: true });
    },
    [path, go],
  );
}

type Span = readonly [number, number];
const WHOLE_NUMBERS_FROM = 20;

/** A span of an axis as `from-to`: in whole numbers, such as steps, unless it is too narrow for them. */
export function spanText([from, to]: Span): string {
  if (to - from >= WHOLE_NUMBERS_FROM) return `${Math.max(0, Math.floor(from))}-${Math.max(0, Math.ceil(to))}`;
  return [from, to].map((value) => String(Number(Math.max(0, value).toFixed(4)))).join("-");
}

export function spanOf(text: string): Span | null {
  const found = /^(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)$/.exec(text);
  return found === null ? null : [Number(found[1]), Number(found[2])];
}

/** The same for a span of steps or of another axis; null for the whole run. */
export function useUrlRange(name = "steps"): [Span | null, (range: Span | null) => void] {
  const [text, setText] = useUrlState(name);
  const range = useMemo(() => spanOf(text), [text]);
  const set = useCallback((next: Span | null) => setText(next === null ? "" : spanText(next)), [setText]);
  return [range, set];
}

/** The same for several words; those with a comma in them are kept apart too. */
export function useUrlList(name: string): [string[], (values: string[]) => void] {
  const [text, setText] = useUrlState(name);
  const set = useCallback((values: string[]) => setText(values.map(encodeURIComponent).join(",")), [setText]);
  const values = useMemo(() => (text === "" ? [] : text.split(",").map(decoded)), [text]);
  return [values, set];
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // a link that somebody typed
  }
}
