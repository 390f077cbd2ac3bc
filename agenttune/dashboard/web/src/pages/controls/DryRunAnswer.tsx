import { Alert, Skeleton, Stack, Text } from "@mantine/core";
import type { UseQueryResult } from "@tanstack/react-query";

import { sentenceOf, ServerError } from "../../api/client";
import type { DryRun } from "../../api/schema";
import { isRefusal, verdictInWords } from "../../components/command/outcome";
import { DifferenceTable } from "./DifferenceTable";
import { RatesPlot } from "./RatesPlot";

type Answer = Pick<UseQueryResult<DryRun>, "data" | "error" | "isPlaceholderData">;

/** Why a command would be refused, by an answer that is about it and no earlier one; empty where nothing is known of that. */
export function refusalOf({ data, error, isPlaceholderData }: Answer): string {
  if (error instanceof ServerError) return sentenceOf(error);
  return data !== undefined && !isPlaceholderData && isRefusal(data) ? verdictInWords(data) : "";
}

/** What the gate would say, and what would be before and after: seen before anything is sent. */
export function DryRunAnswer({ query }: { query: UseQueryResult<DryRun> }) {
  if (query.isError) {
    return (
      <Alert color="red" role="status">
        {sentenceOf(query.error)}
      </Alert>
    );
  }
  if (query.data === undefined) return query.isFetching ? <Skeleton height={60} role="img" aria-label="Asking the gate" /> : null;
  const { waits_for: asked, differences = [], rates = [] } = query.data;
  const isRefused = isRefusal(query.data);
  return (
    <Stack gap="xs">
      <Alert
        color={isRefused ? "red" : asked ? "yellow" : "teal"}
        role="status"
        p="xs"
        title={isRefused ? "Would be refused" : asked ? "Would wait for a decision" : "Would be let through"}
        style={{ overflowWrap: "anywhere" }}
      >
        {verdictInWords(query.data)}
      </Alert>
      {differences.length > 0 && <DifferenceTable differences={differences} />}
      {rates.length > 0 && (
        <>
          <Text size="sm" c="dimmed">
            Learning rate to come: dashed as it stands, solid with this command.
          </Text>
          <RatesPlot rates={rates} />
        </>
      )}
    </Stack>
  );
}
