import { Badge, Group, Stack, Text } from "@mantine/core";

import type { Finding, Seen } from "../../api/schema";
import { Name } from "../Name";
import { told, toldUsd } from "../numbers";
import { Part, Words } from "./Part";

const NEWEST = 4;
export const SEVERITIES: Record<Finding["severity"], { color: string; sign: string }> = {
  info: { color: "gray", sign: "i" },
  warning: { color: "orange", sign: "!" },
  critical: { color: "red", sign: "‼" },
};

/** What the one who asked had before it. */
export function SeenPart({ seen }: { seen: Seen }) {
  const { step, goal, woken_by: wokenBy, policy, spent, calls = [], faults = [] } = seen;
  const findings = (seen.findings ?? []).slice(-NEWEST);
  return (
    <Part title="What it saw">
      <Stack gap={4}>
        <Text size="sm" component="div">
          The run as of step {told(step)}
          {goal ? (
            <>
              , the goal last at {told(goal.value)} (step {told(goal.step)})
            </>
          ) : null}
          {policy ? (
            <>
              ; <Name text={policy} /> looked
            </>
          ) : null}
          {wokenBy ? (
            <>
              {" "}
              because of <Name text={wokenBy} />
            </>
          ) : null}
          .
        </Text>
        {findings.map(({ seq, finding }) => (
          <Group key={seq} gap={6} wrap="nowrap" align="start">
            <Badge size="sm" variant="light" color={SEVERITIES[finding.severity].color} style={{ flexShrink: 0 }} mt={2}>
              {finding.severity} {told(finding.step)}
            </Badge>
            <Words text={finding.summary} />
          </Group>
        ))}
        {findings.length === 0 && (
          <Text size="sm" c="dimmed">
            No detector had reported anything before.
          </Text>
        )}
        {calls.length > 0 && (
          <Text size="sm" c="dimmed">
            {calls.length} {calls.length === 1 ? "call" : "calls"} of a language model, {told(spent.tokens)} tokens
            {typeof spent.usd === "number" && spent.usd > 0 ? `, ${toldUsd(spent.usd)}` : ""}
          </Text>
        )}
        {faults.map((fault) => (
          <Words key={fault} text={fault} />
        ))}
      </Stack>
    </Part>
  );
}
