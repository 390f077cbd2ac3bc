import { Button, Group, Stack, Text, Textarea, TextInput } from "@mantine/core";
import { notifications } from "@mantine/notifications";
import { useState } from "react";

import { sentenceOf } from "../../api/client";
import type { AgentStatus } from "../../api/schema";
import { whyNot, whyNotCommand, type Me } from "../../api/session";
import { Offered } from "../../components/Offered";
import { useSend } from "../controls/useSend";
import { useRecord } from "./reads";

interface Props {
  runId: string;
  agent: AgentStatus;
  me: Me;
  isLive: boolean;
}

const ENDED = "The run has ended.";
/** Looks at the run and asks for nothing. */
const PAUSED = "noop";

/** Have another policy decide, send it away, or tell it something. */
export function AgentControls({ runId, agent, me, isLive }: Props) {
  const [policy, setPolicy] = useState("");
  const [note, setNote] = useState("");
  const record = useRecord(runId);
  const { send, isSending } = useSend(runId);
  const attach = `agenttune attach ${window.location.origin} --run ${runId}`;
  const noAgent = agent.policy && agent.doing !== "lost" ? "" : `No agent is beside this run, so nobody would obey. This starts one: ${attach}`;
  const mayNot = isLive ? whyNot(me, "mayChoosePolicy") : ENDED;
  const noPolicy = mayNot || noAgent;
  const isPaused = agent.policy === PAUSED;
  const noNote = isLive ? whyNotCommand(me, "add_note") : ENDED;
  const ask = (wanted: string | null) =>
    record.mutate(
      { kind: "policy_requested", policy: wanted },
      {
        onSuccess: () => setPolicy((typed) => (typed.trim() === wanted ? "" : typed)),
        onError: (error) => notifications.show({ title: "Not asked for", message: sentenceOf(error), color: "red" }),
      },
    );
  const sendNote = async () => {
    if (await send({ kind: "add_note", text: note })) setNote((typed) => (typed === note ? "" : typed));
  };
  return (
    <Stack gap="sm">
      <Group align="end" gap="sm">
        <TextInput
          label="Policy"
          description="A name that ships, or a file on the machine of the run"
          placeholder={agent.policy ?? "guardian"}
          value={policy}
          onChange={(event) => setPolicy(event.currentTarget.value)}
          disabled={noPolicy !== ""}
        />
        <Offered whyNot={noPolicy || (policy.trim() ? "" : "Say which policy.")} onClick={() => ask(policy.trim())}>
          Swap
        </Offered>
      </Group>
      <Group gap="sm">
        {isPaused && agent.previous ? (
          <Offered whyNot={noPolicy} onClick={() => ask(agent.previous ?? PAUSED)}>
            {`Go on with ${agent.previous.slice(0, 60)}`}
          </Offered>
        ) : (
          <Offered whyNot={noPolicy || (isPaused ? "It asks for nothing as it is." : "")} onClick={() => ask(PAUSED)}>
            Pause it
          </Offered>
        )}
        <Offered whyNot={noPolicy} onClick={() => ask(null)}>
          Send it away
        </Offered>
      </Group>
      <Text size="sm" c="dimmed" style={{ overflowWrap: "anywhere" }}>
        {isLive && noAgent ? noAgent : `Paused, ${PAUSED} takes its place, which looks and asks for nothing. Sent away, its process ends, and only agenttune attach brings one back.`}
      </Text>
      {agent.requested && <Text size="sm">Asked for, and not there yet: {agent.requested}</Text>}
      {agent.refused && (
        <Text size="sm" role="status" style={{ overflowWrap: "anywhere" }}>
          Not obeyed: {agent.refused}
        </Text>
      )}
      <Textarea
        label="A message to the agent"
        description="A note in the log; policies that read notes see it at their next look, and so does everybody else."
        autosize
        minRows={2}
        maxLength={2000}
        value={note}
        onChange={(event) => setNote(event.currentTarget.value)}
        disabled={noNote !== ""}
      />
      <Group>
        <Button
          size="compact-sm"
          loading={isSending}
          disabled={noNote !== "" || note.trim() === ""}
          title={noNote}
          onClick={() => void sendNote()}
        >
          Send the note
        </Button>
      </Group>
    </Stack>
  );
}
