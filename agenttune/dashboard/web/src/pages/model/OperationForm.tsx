import { Button, Group, Textarea } from "@mantine/core";
import { useState } from "react";

import { isTable, parsedLike } from "../../components/command/values";

/** Parameters of an operation that the training's own script allows; only the trainer knows which it takes. */
export function OperationForm({ name, onAsk }: { name: string; onAsk: (params: Record<string, unknown>) => void }) {
  const [text, setText] = useState("{}");
  const parsed = parsedLike({}, text);
  const isFine = parsed.problem === undefined && isTable(parsed.value);
  return (
    <Group align="flex-end" mt="xs">
      <Textarea
        label={`Parameters of ${name}, as JSON`}
        value={text}
        onChange={(event) => setText(event.currentTarget.value)}
        error={parsed.problem}
        autosize
        style={{ flex: 1 }}
      />
      <Button
        disabled={!isFine}
        onClick={() => {
          if (parsed.problem === undefined && isTable(parsed.value)) onAsk(parsed.value);
        }}
      >
        Go on
      </Button>
    </Group>
  );
}
