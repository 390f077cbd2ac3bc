import { Button, Group, Modal, Select, Stack, Text } from "@mantine/core";
import { useState } from "react";

import type { Command } from "../../components/command/CommandDialog";
import { NumberField } from "../../components/NumberField";
import { deletionOf, type Rule } from "./deletion";

interface Props {
  isOpen: boolean;
  branches: readonly string[];
  onAsk: (command: Command) => void;
  onClose: () => void;
}

const NO_RULE: Rule = { keepLast: "", keepBest: "", beforeStep: "", branch: null };

/** Deletes checkpoints by a rule. */
export function DeleteForm({ isOpen, branches, onAsk, onClose }: Props) {
  const [rule, setRule] = useState(NO_RULE);
  const command = deletionOf(rule);
  return (
    <Modal opened={isOpen} onClose={onClose} title="Delete checkpoints by a rule" closeButtonProps={{ "aria-label": "Close" }}>
      <Stack gap="sm">
        <Text size="sm">
          Never deleted: what is pinned, what a branch began from, what the training loop saved by itself, and what the
          run keeps to go back to.
        </Text>
        <NumberField label="Keep so many of the newest" value={rule.keepLast} onChange={(keepLast) => setRule({ ...rule, keepLast })} min={0} />
        <NumberField label="Keep so many of the best, by the goal metric" value={rule.keepBest} onChange={(keepBest) => setRule({ ...rule, keepBest })} min={0} />
        <NumberField label="Only those of before this step" value={rule.beforeStep} onChange={(beforeStep) => setRule({ ...rule, beforeStep })} min={1} />
        <Select label="Only those of this branch" data={[...branches]} value={rule.branch} onChange={(branch) => setRule({ ...rule, branch })} clearable clearButtonProps={{ "aria-label": "Of all branches" }} />
        <Group justify="flex-end">
          <Button variant="default" onClick={onClose}>
            Cancel
          </Button>
          <Button color="red" disabled={command === null} onClick={() => command && onAsk(command)}>
            Go on…
          </Button>
        </Group>
      </Stack>
    </Modal>
  );
}
