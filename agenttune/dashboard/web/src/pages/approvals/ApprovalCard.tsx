import { Badge, Code, Group, Paper, Stack, Text, Title } from "@mantine/core";

import type { Approval } from "../../api/schema";
import { Name } from "../../components/Name";
import { asciiJson, visible } from "../../components/plain";
import { DifferenceTable } from "../controls/DifferenceTable";
import { Countdown } from "./Countdown";
import { Curves } from "./Curves";
import { DecisionForm, type DecisionProps } from "./DecisionForm";
import { Evidence } from "./Evidence";
import type { Waiting } from "./facts";
import { Part } from "./Part";
import type { ServerClock } from "./useServerNow";

const RISKS: Partial<Record<string, string>> = { observe: "gray", tune: "blue", disrupt: "yellow", danger: "red" };

/** What of its run a request is shown with. */
export interface ShownRun {
  status: string;
  step: number;
  max_steps?: number | null;
}

export interface ApprovalCardProps extends DecisionProps {
  record: Waiting;
  approval: Approval;
  clock: ServerClock;
  run: ShownRun;
}

/**
 * One request with all that one should know before answering, what matters first.
 *
 * It is shown in the queue of a run and behind a signed link; it asks for nothing itself and knows of neither.
 */
export function ApprovalCard({ record, approval, clock, run, ...decision }: ApprovalCardProps) {
  const { proposal, request } = record;
  const { kind, ...arguments_ } = proposal.command;
  const asked = Object.fromEntries(Object.entries(arguments_).filter(([, value]: [string, unknown]) => value !== null));
  const said = kind.replaceAll("_", " ");
  return (
    <Paper withBorder p={{ base: "sm", sm: "md" }} component="article" aria-label={`${proposal.author.name.slice(0, 100)} asks for ${kind}`}>
      <Stack gap="sm">
        <Group gap="xs">
          <Title order={2} size="h4" style={{ overflowWrap: "anywhere" }}>
            <Name text={proposal.author.name} /> asks for {said}
          </Title>
          {decision.command && (
            <Badge color={RISKS[decision.command.risk] ?? "gray"} variant="light">
              {decision.command.risk}
            </Badge>
          )}
        </Group>
        {(request.differences ?? []).length > 0 && <DifferenceTable differences={request.differences ?? []} />}
        <Countdown record={record} approval={approval} clock={clock} />
        <Part title="The reason given">
          <Text size="sm" component="bdi" display="block" mah={220} tabIndex={0} style={{ whiteSpace: "pre-wrap", overflowWrap: "anywhere", overflow: "auto" }}>
            {visible(proposal.rationale) || "none"}
          </Text>
        </Part>
        <Curves curves={approval.curves ?? []} step={request.step} />
        <Evidence record={record} run={run} />
        <Part title="The command, exactly">
          <Code block tabIndex={0} mah={200} style={{ overflow: "auto", overflowWrap: "anywhere", whiteSpace: "pre-wrap" }}>
            {asciiJson({ kind, ...asked })}
          </Code>
        </Part>
        <DecisionForm record={record} asked={asked} {...decision} />
      </Stack>
    </Paper>
  );
}
