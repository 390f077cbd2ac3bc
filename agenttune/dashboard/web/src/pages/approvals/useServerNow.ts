import { serverClock } from "../../api/serverClock";
import { useNow } from "../../components/Ago";

/** The server's clock as of an answer of its own, and when by this browser's clock that answer came. */
export interface ServerClock {
  nowS: number;
  atMs: number;
}

/** Unix time by the clock of an answer, second by second: a request's deadline goes by its own. */
export function useServerNow({ nowS, atMs }: ServerClock): number {
  return useNow(1000) + nowS - serverClock.nowS(atMs);
}
