import { keepPreviousData, useQueries, useQuery, type UseQueryResult } from "@tanstack/react-query";

import { answerOf, server } from "../../api/client";
import { keys } from "../../api/queries";
import type { RunOverview, RunsOverview } from "../../api/schema";

const PAGE = 100;
const LIVE_MS = 4000;

/** The page of the list that a row is on. */
export function pageOf(index: number): number {
  return Math.floor(index / PAGE);
}

export interface Filter {
  search: string;
  statuses: RunOverview["status"][];
  tags: string[];
}

export interface OverviewRows {
  /** The first page: how many there are, and of what kinds. */
  head: UseQueryResult<RunsOverview>;
  row: (index: number) => RunOverview | undefined;
}

/** The part of the list that is on screen: pages of it are asked for as one scrolls, and again while runs go on. */
export function useOverview(filter: Filter, first: number, last: number): OverviewRows {
  const head = useQuery({ ...pageOptions(filter, 0), refetchInterval: LIVE_MS });
  const from = pageOf(first);
  const numbers = Array.from({ length: Math.max(0, pageOf(last) - from + 1) }, (_, i) => from + i);
  const wanted = numbers.filter((page) => page > 0);
  const pages = useQueries({
    queries: wanted.map((page) => ({ ...pageOptions(filter, page), refetchInterval: LIVE_MS })),
  });
  const row = (index: number) => {
    const page = pageOf(index);
    const found = page === 0 ? head : pages[wanted.indexOf(page)];
    return found?.data?.runs[index - page * PAGE];
  };
  return { head, row };
}

function pageOptions({ search, statuses, tags }: Filter, page: number) {
  const query = { search, status: statuses, tag: tags, limit: PAGE, offset: page * PAGE };
  return {
    queryKey: [...keys.runs, "overview", query] as const,
    queryFn: (): Promise<RunsOverview> => answerOf(server.GET("/api/v1/overview", { params: { query } })),
    placeholderData: keepPreviousData,
  };
}
