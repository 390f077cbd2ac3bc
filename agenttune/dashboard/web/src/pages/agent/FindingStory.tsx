import { Badge, Group, Text } from "@mantine/core";
import { notifications } from "@mantine/notifications";

import { sentenceOf } from "../../api/client";
import type { FindingRead } from "../../api/schema";
import { whyNot, type Me } from "../../api/session";
import { Words } from "../../components/decision/Part";
import { SEVERITIES } from "../../components/decision/SeenPart";
import { toldKind } from "../../components/decision/words";
import { EvidenceTable, hasEvidence } from "../../components/EvidenceTable";
import { Offered } from "../../components/Offered";
import { useRecord } from "./reads";

interface Props {
  runId: string;
  found: Pick<FindingRead, "seq" | "step" | "finding" | "judged">;
  me: Me;
}

/** What a detector saw, its evidence on demand, and what people say of it. */
export function FindingStory({ runId, found: { seq, step, finding, judged }, me }: Props) {
  const record = useRecord(runId);
  const why = whyNot(me, "mayAnnotate");
  const judge = (right: boolean) =>
    record.mutate(
      { kind: "finding_judged", finding_seq: seq, right, text: "" },
      { onError: (error) => notifications.show({ title: "Not recorded", message: sentenceOf(error), color: "red" }) },
    );
  return (
    <div>
      <Group gap="xs">
        <Text fw={600} size="sm">
          {toldKind(finding.kind)}
        </Text>
        <Badge color={SEVERITIES[finding.severity].color} variant="light">
          {finding.severity}
        </Badge>
      </Group>
      <Words text={finding.summary} />
      {hasEvidence(finding) && (
        <details>
          <Text component="summary" size="sm" c="dimmed" style={{ cursor: "pointer" }}>
            What it goes by
          </Text>
          <EvidenceTable finding={finding} />
        </details>
      )}
      <Group gap="xs">
        <Text size="sm">Was this right?</Text>
        <Offered whyNot={why} label={`Yes, ${finding.kind} at step ${step} was right`} onClick={() => judge(true)}>
          Yes
        </Offered>
        <Offered whyNot={why} label={`No, ${finding.kind} at step ${step} was wrong`} onClick={() => judge(false)}>
          No
        </Offered>
        {judged && (
          <Text size="sm" c="dimmed">
            {judged.author} said {judged.right ? "yes" : "no"}
          </Text>
        )}
      </Group>
    </div>
  );
}
