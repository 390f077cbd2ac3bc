import { CloseButton, Group, Paper, Stack, Text, Title } from "@mantine/core";

import { Ago } from "../Ago";
import { Loaded } from "../Loaded";
import { Name } from "../Name";
import { DecisionStory } from "./DecisionStory";
import { StateBadge } from "./StateBadge";
import { useDecision } from "./useDecision";
import { toldKind } from "./words";

export interface DecisionPanelProps {
  runId: string;
  commandId: string;
  onClose?: () => void;
}

/** One command from what was seen to whether it helped; for any page of a run. */
export function DecisionPanel({ runId, commandId, onClose }: DecisionPanelProps) {
  const decision = useDecision(runId, commandId);
  return (
    <Paper withBorder p="sm" component="section" aria-label="Decision">
      <Loaded query={decision} height={320}>
        {(found) => (
          <Stack gap="sm">
            <Group justify="space-between" wrap="nowrap" align="start">
              <Stack gap={2} miw={0}>
                <Group gap="xs">
                  <Title order={2} size="h4">
                    {toldKind(found.record.proposal.command.kind)}
                  </Title>
                  <StateBadge state={found.record.state} />
                </Group>
                <Text size="sm" c="dimmed" component="div">
                  asked for by <Name text={found.record.proposal.author.name} /> (
                  {found.record.proposal.author.principal})
                  {found.record.proposal.created_at_s !== undefined && (
                    <>
                      {", "}
                      <Ago at={found.record.proposal.created_at_s} />
                    </>
                  )}
                </Text>
              </Stack>
              {onClose && <CloseButton aria-label="Close the decision" onClick={onClose} />}
            </Group>
            <DecisionStory decision={found} />
          </Stack>
        )}
      </Loaded>
    </Paper>
  );
}
