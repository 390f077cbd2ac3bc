import { Anchor, Button, Code, CopyButton, Group, Stack, Text, Title } from "@mantine/core";
import { Link } from "wouter";

import type { Event } from "../../api/schema";
import { Ago } from "../../components/Ago";
import { Name } from "../../components/Name";
import { told } from "../../components/numbers";
import { pathOf } from "../../routes";
import { entryInWords, kindInWords } from "./words";

const AROUND_STEPS = 100;
const LONGEST = 20_000;

/** The whole of an entry, and where one can go from it. */
export function EntryPanel({ runId, event, onCommand }: { runId: string; event: Event; onCommand: (commandId: string) => void }) {
  const { seq, at_s: atS, step, branch, command_id: commandId, body } = event;
  const body_text = JSON.stringify(body, null, 2);
  const address = `${window.location.origin}${pathOf(runId, "log")}?at=${seq}`;
  const around = step == null ? null : `${Math.max(step - AROUND_STEPS, 0)}-${step + AROUND_STEPS}`;
  return (
    <Stack gap="xs" miw={0}>
      <Title order={2} size="h5">
        {kindInWords(body.kind)}
      </Title>
      <Text size="sm" style={{ overflowWrap: "anywhere" }} lineClamp={8}>
        <bdi>{entryInWords(body)}</bdi>
      </Text>
      <Text size="sm" c="dimmed">
        Entry {told(seq)}
        {step != null && `, step ${told(step)}`}, branch <Name text={branch} />, <Ago at={atS} />
      </Text>
      <Group gap="sm">
        <CopyButton value={address}>
          {({ copied, copy }) => (
            <Button size="compact-sm" variant="default" onClick={copy}>
              {copied ? "Copied" : "Copy link to this moment"}
            </Button>
          )}
        </CopyButton>
        {around && (
          <Anchor component={Link} size="sm" href={`${pathOf(runId, "metrics")}?steps=${around}`}>
            Curves around this step
          </Anchor>
        )}
        {commandId && (
          <Button size="compact-sm" variant="subtle" onClick={() => onCommand(commandId)}>
            All entries of this command
          </Button>
        )}
      </Group>
      <Code block tabIndex={0} aria-label="The whole entry" style={{ maxHeight: 420, overflow: "auto", whiteSpace: "pre-wrap", overflowWrap: "anywhere" }}>
        {body_text.length > LONGEST ? `${body_text.slice(0, LONGEST)}…` : body_text}
      </Code>
    </Stack>
  );
}
