import { Button, Grid, Group, SegmentedControl, SimpleGrid, Stack, Text } from "@mantine/core";
import { useMemo, useState } from "react";

import { useRun } from "../../api/queries";
import { useMe } from "../../api/session";
import type { AgentStatus } from "../../api/schema";
import { DecisionPanel } from "../../components/decision/DecisionPanel";
import { Loaded } from "../../components/Loaded";
import { useNothing } from "../../components/nothing";
import { told, toldUsd } from "../../components/numbers";
import { isLive } from "../../components/RunStatus";
import { Section } from "../../components/Section";
import type { RunPageProps } from "../../routes";
import { useUrlState, useUrlStates } from "../../urlState";
import { useAgentNow, useAllFindings } from "../overview/reads";
import { AgentControls } from "./AgentControls";
import { PAGE, useStory, type Told } from "./reads";
import { Timeline } from "./Timeline";
import { Transcript } from "./Transcript";

/** What the agent does and has done, what it costs, what it saw; and a person's word to it. */
export default function AgentPage({ runId }: RunPageProps) {
  const me = useMe();
  const run = useRun(runId);
  const nothing = useNothing(runId);
  const agent = useAgentNow(runId);
  const findings = useAllFindings(runId);
  const [command, setCommand] = useUrlState("decision");
  const [before, setBefore] = useUrlState("before");
  const setStates = useUrlStates();
  const [shown] = useUrlState("show");
  const told: Told = shown === "findings" ? "findings" : "all";
  const story = useStory(runId, /^\d+$/.test(before) ? Number(before) : null, told);
  const judged = useMemo(() => new Map(findings.data?.findings.map((one) => [one.seq, one.judged])), [findings.data]);
  const [transcript, setTranscript] = useState<number | null>(null);
  return (
    <Grid>
      <Grid.Col span={{ base: 12, md: 8 }}>
        <Stack>
          <Section title="Now">
            <Loaded query={agent}>{(status) => <Now status={status} />}</Loaded>
          </Section>
          <Section title="What it looked at and decided">
            <SegmentedControl
              size="xs"
              mb="sm"
              aria-label="What is shown"
              value={told}
              onChange={(value) => setStates({ show: value === "findings" ? value : "", before: "" })}
              data={[
                { value: "all", label: "all" },
                { value: "findings", label: `findings ${findings.data?.findings.length ?? ""}` },
              ]}
            />
            <Loaded query={story} empty={{ when: (read) => read.events.length === 0, say: told === "findings" ? "The detectors saw nothing." : nothing("told") }}>
              {(read) => (
                <>
                  {before && (
                    <Button mb="sm" size="compact-sm" variant="default" onClick={() => setBefore("")}>
                      Back to the newest
                    </Button>
                  )}
                  <Timeline key={`${told} ${before}`} runId={runId} events={read.events} judged={judged} me={me} onCommand={setCommand} onTranscript={setTranscript} />
                  {read.events.length === PAGE && (
                    <Button mt="sm" size="compact-sm" variant="default" onClick={() => setBefore(String(read.previous))}>
                      Earlier
                    </Button>
                  )}
                </>
              )}
            </Loaded>
          </Section>
        </Stack>
      </Grid.Col>
      <Grid.Col span={{ base: 12, md: 4 }}>
        <Stack>
          {command && <DecisionPanel key={command} runId={runId} commandId={command} onClose={() => setCommand("")} />}
          <Section title="Steer it">
            <Loaded query={agent}>
              {(status) => (
                <AgentControls runId={runId} agent={status} me={me} isLive={run.data !== undefined && isLive(run.data.status)} />
              )}
            </Loaded>
          </Section>
        </Stack>
      </Grid.Col>
      {transcript !== null && <Transcript runId={runId} seq={transcript} onClose={() => setTranscript(null)} />}
    </Grid>
  );
}

function Now({ status }: { status: AgentStatus }) {
  const { spent } = status;
  return (
    <Stack gap="xs">
      <Text>{status.words}</Text>
      {status.last_reason && (
        <Text size="sm" c="dimmed" component="bdi">
          At its last look, {status.last_look_step == null ? "before the first step" : `step ${told(status.last_look_step)}`}: {status.last_reason}
        </Text>
      )}
      <SimpleGrid cols={{ base: 2, sm: 4 }}>
        <Figure name="Policy" value={status.policy ?? "none"} />
        <Figure name="Looks" value={told(status.looks)} />
        <Figure name="Asked for" value={told(status.proposals)} />
        <Figure name="Model" value={(status.models ?? []).join(", ") || "none"} />
        <Figure name="Calls" value={told(spent.calls)} />
        <Figure name="Tokens" value={told(spent.tokens)} />
        <Figure name="Cost" value={spent.usd === null ? "–" : toldUsd(spent.usd)} />
      </SimpleGrid>
    </Stack>
  );
}

function Figure({ name, value }: { name: string; value: string }) {
  return (
    <Group gap={0} style={{ flexDirection: "column", alignItems: "start", minWidth: 0 }}>
      <Text size="xs" c="dimmed">
        {name}
      </Text>
      <Text fw={600} truncate="end" maw="100%" title={value}>
        {value}
      </Text>
    </Group>
  );
}
