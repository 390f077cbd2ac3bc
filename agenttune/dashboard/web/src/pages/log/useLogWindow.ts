import { useCallback, useEffect, useRef, useState } from "react";

import { useFollow } from "../../api/live";
import { readPage, type LogFilter } from "./filter";
import { appended, PAGE, prepended, type LogWindow } from "./logWindow";

const SETTLE_MS = 250;

/** A window on the log that grows in both directions, and at its end as the run goes on. */
export function useLogWindow(runId: string, filter: LogFilter, first: LogWindow) {
  const [shown, setShown] = useState(first);
  const [fault, setFault] = useState<unknown>(null);
  const newest = useRef(first);
  const isBusy = useRef(false);
  const timer = useRef<number | undefined>(undefined);

  const load = useCallback(
    async (direction: "earlier" | "later") => {
      if (isBusy.current) return;
      isBusy.current = true;
      try {
        const known = newest.current;
        const place = direction === "later" ? { since: known.next } : { before: known.previous };
        const page = await readPage(runId, filter, place, PAGE);
        newest.current = direction === "later" ? appended(known, page) : prepended(known, page);
        setShown(newest.current);
        setFault(null);
      } catch (error) {
        setFault(error);
      } finally {
        isBusy.current = false;
      }
    },
    [runId, filter],
  );

  const laterSoon = useCallback(() => {
    const look = () => {
      timer.current = isBusy.current ? window.setTimeout(look, SETTLE_MS) : undefined;
      if (!isBusy.current && newest.current.hasTail) void load("later");
    };
    timer.current ??= window.setTimeout(look, SETTLE_MS);
  }, [load]);
  useEffect(() => () => window.clearTimeout(timer.current), []);

  const { link } = useFollow(runId, laterSoon);
  useEffect(() => {
    // What was written while the page was away.
    if (link === "live") laterSoon();
  }, [link, laterSoon]);

  return { shown, fault, load };
}
