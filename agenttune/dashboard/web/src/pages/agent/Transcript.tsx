import { Badge, Code, Group, Modal, Stack, Text } from "@mantine/core";

import type { ChatMessage } from "../../api/schema";
import { Loaded } from "../../components/Loaded";
import { told } from "../../components/numbers";
import { useTranscript } from "./reads";

interface Props {
  runId: string;
  seq: number;
  onClose: () => void;
}

/** All that was said in one call of a language model. */
export function Transcript({ runId, seq, onClose }: Props) {
  const query = useTranscript(runId, seq);
  return (
    <Modal opened onClose={onClose} size="xl" title="What was said">
      <Loaded query={query}>
        {({ call, step }) => (
          <Stack gap="sm">
            <Text size="sm">
              {call.model}, to {call.purpose}, at step {told(step)}; {told(call.usage?.input_tokens)} tokens in,{" "}
              {told(call.usage?.output_tokens)} out, {told(call.latency_s)} s
              {call.error && `; it failed: ${call.error}`}
            </Text>
            {[...(call.messages ?? []), ...(call.answer ? [call.answer] : [])].map((message, index) => (
              <Said key={index} message={message} />
            ))}
          </Stack>
        )}
      </Loaded>
    </Modal>
  );
}

function Said({ message }: { message: ChatMessage }) {
  return (
    <div>
      <Group gap="xs" mb={4}>
        <Badge variant="light">{message.role}</Badge>
      </Group>
      {message.content && (
        <Code block tabIndex={0} style={{ whiteSpace: "pre-wrap", overflowWrap: "anywhere" }}>
          {message.content}
        </Code>
      )}
      {message.tool_uses?.map((use) => (
        <Code block key={use.id} mt={4} style={{ whiteSpace: "pre-wrap", overflowWrap: "anywhere" }}>
          {use.name} {use.arguments}
        </Code>
      ))}
    </div>
  );
}
