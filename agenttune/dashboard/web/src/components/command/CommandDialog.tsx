import { Alert, Button, Code, Group, Modal, Stack, Text, Textarea } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { useState } from "react";

import { sentenceOf } from "../../api/client";
import { dryRun, keys, proposed, useCommands, useSubmit } from "../../api/queries";
import type { CommandRecord, Submission } from "../../api/schema";
import { isRefusal, outcomeInWords, verdictInWords } from "./outcome";

export type Command = Submission["command"];

interface Props {
  runId: string;
  /** What is about to be sent; null: nothing, and no dialog. */
  command: Command | null;
  title: string;
  /** What it does, and whether it can be undone: said before it is sent. */
  consequence: string;
  onClose: () => void;
}

/** Before a command is sent: what it is, what the gate would say, and why one wants it; afterwards what came of it. */
export function CommandDialog({ command, title, onClose, ...rest }: Props) {
  return (
    <Modal opened={command !== null} onClose={onClose} title={title} size="lg" closeButtonProps={{ "aria-label": "Close" }}>
      {command && <Confirmation command={command} onClose={onClose} key={JSON.stringify(command)} {...rest} />}
    </Modal>
  );
}

function Confirmation({ runId, command, consequence, onClose }: Omit<Props, "title" | "command"> & { command: Command }) {
  const [reason, setReason] = useState("");
  const submission = proposed(command);
  const dry = useQuery({
    queryKey: keys.run(runId, "guardrails", "dry run", command),
    queryFn: () => dryRun(runId, submission),
    staleTime: 0,
  });
  const sending = useSubmit(runId);
  const isRefused = dry.data !== undefined && isRefusal(dry.data);
  if (sending.data) return <Sent runId={runId} record={sending.data} onClose={onClose} />;
  return (
    <Stack gap="sm">
      <Text size="sm">{consequence}</Text>
      <Code block style={{ maxHeight: 180, overflow: "auto", overflowWrap: "anywhere", whiteSpace: "pre-wrap" }} tabIndex={0}>
        {JSON.stringify(command, null, 2)}
      </Code>
      <div role="status">
        {dry.isPending && <Text size="sm">Asking the gate what it would say…</Text>}
        {dry.isError && <Alert color="red">{sentenceOf(dry.error)}</Alert>}
        {dry.data && (
          <Alert color={isRefused ? "red" : "teal"} title={isRefused ? "Would be refused" : "Dry run"} style={{ overflowWrap: "anywhere" }}>
            {verdictInWords(dry.data)}
          </Alert>
        )}
      </div>
      <Textarea label="Why (goes into the log)" value={reason} onChange={(event) => setReason(event.currentTarget.value)} maxLength={2000} autosize minRows={1} data-autofocus />
      {sending.isError && (
        <Alert color="red" role="alert">
          {sentenceOf(sending.error)}
        </Alert>
      )}
      <Group justify="flex-end">
        <Button variant="default" onClick={onClose}>
          Cancel
        </Button>
        <Button
          loading={sending.isPending}
          disabled={isRefused || dry.isError}
          onClick={() => sending.mutate({ ...submission, rationale: reason.trim() })}
        >
          Send
        </Button>
      </Group>
    </Stack>
  );
}

/** What came of it, followed until it is final. */
function Sent({ runId, record, onClose }: { runId: string; record: CommandRecord; onClose: () => void }) {
  const id = record.proposal.command_id;
  const newest = useCommands(runId).data?.commands.find(({ proposal }) => proposal.command_id === id) ?? record;
  const { text, color } = outcomeInWords(newest);
  return (
    <Stack gap="sm">
      <Alert color={color} role="status" title={newest.state} style={{ overflowWrap: "anywhere" }}>
        {text}
      </Alert>
      <Group justify="flex-end">
        <Button onClick={onClose} data-autofocus>
          Done
        </Button>
      </Group>
    </Stack>
  );
}
