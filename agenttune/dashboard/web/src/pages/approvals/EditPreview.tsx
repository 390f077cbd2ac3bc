import { useDebouncedValue } from "@mantine/hooks";
import { keepPreviousData, useQuery } from "@tanstack/react-query";

import type { AnyCommand } from "../../api/queries";
import type { DryRun } from "../../api/schema";
import { DryRunAnswer } from "../controls/DryRunAnswer";

const SETTLE_MS = 400;

interface Props {
  /** Of its answers in the cache. */
  name: readonly string[];
  command: AnyCommand;
  ask: (command: AnyCommand) => Promise<DryRun>;
}

/** What the guardrails say of an edit before it is sent, with values before and after. */
export function EditPreview({ name, command, ask }: Props) {
  const [settled] = useDebouncedValue(JSON.stringify(command), SETTLE_MS);
  const query = useQuery({
    queryKey: [...name, settled],
    queryFn: () => ask(JSON.parse(settled) as AnyCommand),
    staleTime: 0,
    retry: false,
    placeholderData: keepPreviousData,
  });
  return <DryRunAnswer query={query} />;
}
