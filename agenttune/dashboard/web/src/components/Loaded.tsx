import { Skeleton, Text } from "@mantine/core";
import type { UseQueryResult } from "@tanstack/react-query";
import type { ReactNode } from "react";

import { Fault } from "./Fault";

interface Props<T> {
  query: UseQueryResult<T>;
  /** What is shown of the answer. */
  children: (data: T) => ReactNode;
  /** A sentence in place of an answer with nothing in it; `useYet` has those that promise something. */
  empty?: { when: (data: T) => boolean; say: string };
  height?: number;
}

/** A read on the page: its answer, or a sentence on why there is none; an old answer stays while it is asked again. */
export function Loaded<T>({ query, children, empty, height = 120 }: Props<T>) {
  if (query.data !== undefined) {
    if (empty?.when(query.data)) return <Text c="dimmed">{empty.say}</Text>;
    return <>{children(query.data)}</>;
  }
  if (query.isError) return <Fault error={query.error} onRetry={() => void query.refetch()} />;
  return <Skeleton height={height} radius="md" role="img" aria-label="Loading" />;
}
