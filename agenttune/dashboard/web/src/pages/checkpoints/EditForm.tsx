import { Button, Group, Modal, Stack, Switch, Text, TextInput } from "@mantine/core";
import { useState } from "react";

import type { Checkpoint } from "../../api/schema";
import type { Command } from "../../components/command/CommandDialog";
import { Name } from "../../components/Name";
import { told } from "../../components/numbers";

interface Props {
  /** The checkpoint that gets a tag or a pin; null: none, and no form. */
  checkpoint: Checkpoint | null;
  onAsk: (command: Command) => void;
  onClose: () => void;
}

/** A checkpoint's tag and pin, and deleting it. */
export function EditForm({ checkpoint, onAsk, onClose }: Props) {
  return (
    <Modal opened={checkpoint !== null} onClose={onClose} title="Tag, pin or delete" closeButtonProps={{ "aria-label": "Close" }}>
      {checkpoint && <Fields checkpoint={checkpoint} onAsk={onAsk} key={checkpoint.checkpoint_id} />}
    </Modal>
  );
}

function Fields({ checkpoint, onAsk }: { checkpoint: Checkpoint; onAsk: (command: Command) => void }) {
  const { checkpoint_id: id, pinned, step } = checkpoint;
  const [tag, setTag] = useState(checkpoint.tag ?? "");
  const [isPinned, setPinned] = useState(pinned);
  const isSame = tag.trim() === (checkpoint.tag ?? "") && isPinned === pinned;
  const change = () =>
    onAsk({
      kind: "update_checkpoint",
      checkpoint_id: id,
      ...(tag.trim() === (checkpoint.tag ?? "") ? {} : { tag: tag.trim() }),
      ...(isPinned === pinned ? {} : { pin: isPinned }),
    });
  return (
    <Stack gap="sm">
      <Text size="sm" style={{ overflow: "hidden" }}>
        <Name text={id} mono />, step {told(step)}
      </Text>
      <TextInput label="Tag" description="Empty: none." value={tag} onChange={(event) => setTag(event.currentTarget.value)} maxLength={100} data-autofocus />
      <Switch label="Pinned: never deleted to keep within the disk cap" checked={isPinned} onChange={(event) => setPinned(event.currentTarget.checked)} />
      <Group justify="space-between">
        <Button variant="outline" color="red" onClick={() => onAsk({ kind: "delete_checkpoints", checkpoint_ids: [id] })}>
          Delete it…
        </Button>
        <Button disabled={isSame} onClick={change}>
          Change…
        </Button>
      </Group>
    </Stack>
  );
}
