import { answerOf, server, ServerError } from "../api/client";
import type { Curves } from "../api/schema";

/** Charts of one page ask in the same moment; more than a browser's short task apart are asked for apart. */
const TOGETHER_MS = 10;
/** Of names in one address, and how many: servers take addresses of some kilobytes. */
const MOST_CHARS = 2000;
const MOST_NAMES = 30;

/** What the curves of a chart are read by, beside their names. */
export interface CurvesAsked {
  name: string[];
  branch: string[];
  axis: Curves["axis"];
  max_points: number;
  first_step?: number;
  last_step?: number;
}

interface Waiting {
  names: readonly string[];
  give: (found: Curves) => void;
  fail: (error: unknown) => void;
}

type Read = (runId: string, query: CurvesAsked) => Promise<Curves>;

const read: Read = (runId, query) => answerOf(server.GET("/api/v1/runs/{run_id}/curves", { params: { path: { run_id: runId }, query } }));

/** Reads that differ in nothing but their names, asked for within a moment, are one request: a page has many charts. */
export class CurvesTogether {
  private readonly open = new Map<string, Waiting[]>();

  constructor(private readonly read: Read) {}

  ask(runId: string, { name, ...rest }: CurvesAsked): Promise<Curves> {
    const key = JSON.stringify([runId, rest]);
    return new Promise((give, fail) => {
      const group = this.open.get(key);
      const one = { names: name, give, fail };
      if (group !== undefined) {
        group.push(one);
        return;
      }
      this.open.set(key, [one]);
      setTimeout(() => {
        const asked = this.open.get(key) ?? [];
        this.open.delete(key);
        for (const part of fitting(asked)) void this.send(runId, rest, part);
      }, TOGETHER_MS);
    });
  }

  private async send(runId: string, rest: Omit<CurvesAsked, "name">, part: readonly Waiting[]): Promise<void> {
    try {
      const found = await this.read(runId, { ...rest, name: [...new Set(part.flatMap(({ names }) => names))] });
      for (const { names, give } of part) give(only(found, names));
    } catch (error) {
      // A name that the server refuses is no reason to show none of the others.
      if (part.length > 1 && error instanceof ServerError && error.status < 500) for (const one of part) void this.send(runId, rest, [one]);
      else for (const { fail } of part) fail(error);
    }
  }
}

/** In order, as many in each as one address takes. */
function fitting(asked: readonly Waiting[]): Waiting[][] {
  const parts: Waiting[][] = [];
  let [chars, count] = [Infinity, 0];
  for (const one of asked) {
    const more = one.names.reduce((sum, name) => sum + encodeURIComponent(name).length, 0);
    if (chars + more > MOST_CHARS || count + one.names.length > MOST_NAMES) {
      parts.push([]);
      [chars, count] = [0, 0];
    }
    parts.at(-1)?.push(one);
    chars += more;
    count += one.names.length;
  }
  return parts;
}

function only(found: Curves, names: readonly string[]): Curves {
  const wanted = new Set(names);
  return { ...found, curves: found.curves.filter(({ name }) => wanted.has(name)), missing: found.missing.filter((name) => wanted.has(name)) };
}

export const curvesTogether = new CurvesTogether(read);
