import { Group, Kbd, List, Modal, Stack, Text } from "@mantine/core";
import { useHotkeys } from "@mantine/hooks";
import { useState } from "react";

import { useCommands, useRun, useSchemas } from "../../api/queries";
import { Loaded } from "../../components/Loaded";
import { useNothing } from "../../components/nothing";
import { Offered } from "../../components/Offered";
import { isLive } from "../../components/RunStatus";
import { Section } from "../../components/Section";
import type { RunPageProps } from "../../routes";
import { decidedIn, decidedInWords, waitingIn } from "./facts";
import { NotifyButton } from "./NotifyButton";
import { RequestItem } from "./RequestItem";

/** What waits for a person, the oldest first, and what was decided lately. */
export default function ApprovalsPage({ runId }: RunPageProps) {
  const run = useRun(runId);
  const nothing = useNothing(runId);
  const commands = useCommands(runId);
  const schemas = useSchemas();
  const [isHelping, setHelping] = useState(false);
  useHotkeys([["shift+?", () => setHelping(true)], ["?", () => setHelping(true)]]);
  return (
    <Stack gap="md">
      <Group gap="sm">
        <NotifyButton />
        <Offered whyNot="" onClick={() => setHelping(true)}>
          Keys (?)
        </Offered>
      </Group>
      <Loaded query={run}>
        {(info) => (
          <Loaded query={schemas}>
            {({ commands: all }) => (
              <Loaded
                query={commands}
                empty={{
                  when: ({ commands: records }) => waitingIn(records).length === 0,
                  say: `Nothing waits for a decision. The run is ${info.status}, at step ${info.step}.${isLive(info.status) ? "" : " Nothing more will be asked."}`,
                }}
              >
                {({ commands: records }) =>
                  waitingIn(records).map((record, index) => (
                    <RequestItem key={record.proposal.command_id} runId={runId} record={record} commands={all} info={info} isFirst={index === 0} />
                  ))
                }
              </Loaded>
            )}
          </Loaded>
        )}
      </Loaded>
      <Section title="Decided lately">
        <Loaded query={commands} empty={{ when: ({ commands: records }) => decidedIn(records).length === 0, say: nothing("decided") }}>
          {({ commands: records }) => (
            <List size="sm" role="status">
              {decidedIn(records).map((record) => (
                <List.Item key={record.proposal.command_id} style={{ overflowWrap: "anywhere" }}>
                  <bdi>{decidedInWords(record)}</bdi>
                </List.Item>
              ))}
            </List>
          )}
        </Loaded>
      </Section>
      <Modal opened={isHelping} onClose={() => setHelping(false)} title="Keys" closeButtonProps={{ "aria-label": "Close" }}>
        <Text size="sm" mb="xs">
          They mean the oldest request.
        </Text>
        <Stack gap={6}>
          <Key name="a">Approve; of what interrupts or cannot be undone, go to the button first</Key>
          <Key name="e">Edit its values</Key>
          <Key name="r">Give a reason, then Tab to Reject</Key>
          <Key name="?">This list</Key>
        </Stack>
      </Modal>
    </Stack>
  );
}

function Key({ name, children }: { name: string; children: string }) {
  return (
    <Text size="sm">
      <Kbd>{name}</Kbd> {children}
    </Text>
  );
}
