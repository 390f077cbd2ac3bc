import { useEffect, useState } from "react";

import { serverClock } from "../api/serverClock";
import { toldDuration } from "./numbers";

const TICK_MS = 5000;

/** Now by the server's clock, in Unix seconds, at most a few seconds old. What this browser's says does not matter. */
export function useNow(tickMs = TICK_MS): number {
  const [now, setNow] = useState(() => serverClock.nowS());
  useEffect(() => {
    const timer = window.setInterval(() => setNow(serverClock.nowS()), tickMs);
    return () => window.clearInterval(timer);
  }, [tickMs]);
  return now;
}

/** How long ago something was; what is a moment ahead of the server's clock says "just now" and no negative time. */
export function Ago({ at }: { at: number }) {
  const passed = useNow() - at;
  const text = passed < TICK_MS / 1000 ? "just now" : `${toldDuration(passed)} ago`;
  const when = new Date(at * 1000);
  return (
    <time dateTime={when.toISOString()} title={when.toString()}>
      {text}
    </time>
  );
}
