import { Alert, Skeleton, Stack, Text } from "@mantine/core";
import type { UseQueryResult } from "@tanstack/react-query";

import { sentenceOf } from "../../api/client";
import type { DryRun } from "../../api/schema";
import { verdictInWords } from "../../components/command/outcome";
import { DifferenceTable } from "./DifferenceTable";
import { RatesPlot } from "./RatesPlot";

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
  const { decision, waits_for: asked, differences = [], rates = [] } = query.data;
  const isRefused = decision !== "approved" && decision !== "edited";
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
