import { Anchor, Badge, CloseButton, Group, Paper, Stack, Text, Title } from "@mantine/core";

import type { FindingRead, Intervention } from "../../api/schema";
import { Part, Words } from "../../components/decision/Part";
import { SEVERITIES } from "../../components/decision/SeenPart";
import { toldKind, withArrows } from "../../components/decision/words";
import { EvidenceTable, hasEvidence } from "../../components/EvidenceTable";
import { Name } from "../../components/Name";
import { told } from "../../components/numbers";

interface Props {
  found: FindingRead;
  history: readonly Intervention[];
  onChoose: (commandId: string) => void;
  onClose: () => void;
}

/** What a detector saw, and what was done next. */
export function FindingPanel({ found: { finding, step, judged }, history, onChoose, onClose }: Props) {
  const next = history.find((one) => (one.proposed_at_step ?? -1) >= step);
  return (
    <Paper withBorder p="sm" component="section" aria-label="Finding">
      <Stack gap="sm">
        <Group justify="space-between" wrap="nowrap" align="start">
          <Group gap="xs">
            <Title order={2} size="h4">
              {toldKind(finding.kind)}
            </Title>
            <Badge variant="light" color={SEVERITIES[finding.severity].color}>
              {finding.severity}
            </Badge>
          </Group>
          <CloseButton aria-label="Close the finding" onClick={onClose} />
        </Group>
        <Text size="sm" c="dimmed" component="div">
          at step {told(step)}
          {finding.metric ? (
            <>
              , in <Name text={finding.metric} />
            </>
          ) : null}
        </Text>
        <Part title="What the detector saw">
          <Words text={finding.summary} />
        </Part>
        {hasEvidence(finding) && (
          <Part title="Its evidence">
            <EvidenceTable finding={finding} />
          </Part>
        )}
        {judged && (
          <Part title="A person said">
            <Words text={`${judged.right ? "This was right." : "This was wrong."} ${judged.text}`} />
          </Part>
        )}
        <Part title="What was asked for next">
          {next ? (
            <Anchor component="button" type="button" size="sm" ta="left" onClick={() => onChoose(next.command_id)}>
              Step {told(next.proposed_at_step)}: {toldKind(next.kind)}, {withArrows(next.summary).slice(0, 200)}
            </Anchor>
          ) : (
            <Text size="sm">Nothing.</Text>
          )}
        </Part>
      </Stack>
    </Paper>
  );
}
