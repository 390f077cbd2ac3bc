import { Button, Group, Modal, Stack, Switch, Text, TextInput } from "@mantine/core";
import { useState } from "react";

import type { Checkpoint } from "../../api/schema";
import type { Command } from "../../components/command/CommandDialog";
import { Name } from "../../components/Name";
import { told } from "../../components/numbers";

interface Props {
  /** The checkpoint to go back to; null: none, and no form. */
  checkpoint: Checkpoint | null;
  onAsk: (command: Command) => void;
  onClose: () => void;
}

/** How to go on from a checkpoint: on which branch, at what rate, with which optimizer. */
export function LoadForm({ checkpoint, onAsk, onClose }: Props) {
  return (
    <Modal opened={checkpoint !== null} onClose={onClose} title="Go back to this checkpoint" closeButtonProps={{ "aria-label": "Close" }}>
      {checkpoint && <Fields checkpoint={checkpoint} onAsk={onAsk} onClose={onClose} key={checkpoint.checkpoint_id} />}
    </Modal>
  );
}

function Fields({ checkpoint, onAsk, onClose }: Props & { checkpoint: Checkpoint }) {
  const [name, setName] = useState("");
  // As text: an input for numbers takes no exponent, and 2e-4 would become -24.
  const [text, setText] = useState("");
  const rate = text.trim() === "" ? null : Number(text);
  const [isFresh, setFresh] = useState(false);
  const isRateWrong = rate !== null && !(rate > 0 && rate <= 100);
  const send = () =>
    onAsk({
      kind: "load_checkpoint",
      checkpoint_id: checkpoint.checkpoint_id,
      ...(name.trim() ? { branch_name: name.trim() } : {}),
      ...(rate === null ? {} : { lr: rate }),
      ...(isFresh ? { reset_optimizer: true } : {}),
    });
  return (
    <Stack gap="sm">
      <Text size="sm" style={{ overflow: "hidden" }}>
        <Name text={checkpoint.tag ?? checkpoint.checkpoint_id} mono />, step {told(checkpoint.step)} of <Name text={checkpoint.branch} mono />
      </Text>
      <TextInput label="Name of the new branch" description="Empty: the run gives one." value={name} onChange={(event) => setName(event.currentTarget.value)} maxLength={100} data-autofocus />
      <TextInput label="Base learning rate from there on" description="Empty: as it was then." value={text} onChange={(event) => setText(event.currentTarget.value)} inputMode="decimal" error={isRateWrong && "A number above 0, and 100 at most, such as 2e-4."} />
      <Switch label="Fresh optimizer: its memory of gradients is cleared" checked={isFresh} onChange={(event) => setFresh(event.currentTarget.checked)} />
      <Group justify="flex-end">
        <Button variant="default" onClick={onClose}>
          Cancel
        </Button>
        <Button disabled={isRateWrong} onClick={send}>
          Go on…
        </Button>
      </Group>
    </Stack>
  );
}
