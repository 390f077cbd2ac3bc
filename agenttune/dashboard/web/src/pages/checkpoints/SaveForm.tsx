import { Group, Switch, TextInput } from "@mantine/core";
import { useState } from "react";

import type { Command } from "../../components/command/CommandDialog";
import { Offered } from "../../components/Offered";

/** Saves the state of now, with a tag to find it by. */
export function SaveForm({ whyNot, onAsk }: { whyNot: string; onAsk: (command: Command) => void }) {
  const [tag, setTag] = useState("");
  const [isPinned, setPinned] = useState(false);
  const [isInMemory, setInMemory] = useState(false);
  const save = () => onAsk({ kind: "save_checkpoint", tag: tag.trim() || null, keep_in: isInMemory ? "memory" : "disk", pin: isPinned });
  return (
    <Group gap="sm">
      <TextInput size="xs" aria-label="Tag of the checkpoint to save" placeholder="Tag" value={tag} onChange={(event) => setTag(event.currentTarget.value)} maxLength={100} w={160} disabled={whyNot !== ""} />
      <Switch size="xs" label="Pin" checked={isPinned} onChange={(event) => setPinned(event.currentTarget.checked)} disabled={whyNot !== ""} />
      <Switch size="xs" label="In memory" checked={isInMemory} onChange={(event) => setInMemory(event.currentTarget.checked)} disabled={whyNot !== ""} />
      <Offered whyNot={whyNot} onClick={save}>
        Save a checkpoint now…
      </Offered>
    </Group>
  );
}
