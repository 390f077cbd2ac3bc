import { Badge, Checkbox, Group, Table, Text, UnstyledButton } from "@mantine/core";

import type { Checkpoint } from "../../api/schema";
import { Ago } from "../../components/Ago";
import { Name } from "../../components/Name";
import { told } from "../../components/numbers";
import { Offered } from "../../components/Offered";
import { toldBytes } from "./sizes";

const KEPT: Record<Checkpoint["kept_as"], { text: string; color: string; title: string } | null> = {
  "": null,
  start: { text: "start", color: "gray", title: "Kept by the run: the state before its first step." },
  best: { text: "best", color: "teal", title: "Kept by the run: the state of its best evaluation." },
  good: { text: "good", color: "blue", title: "Kept by the run: one of its newest good states." },
};

interface Props {
  checkpoints: readonly Checkpoint[];
  metric: string;
  chosen: string;
  ticked: readonly string[];
  whyNot: string;
  whyNotEdit: string;
  onChoose: (checkpoint: Checkpoint) => void;
  onTick: (checkpoint: Checkpoint) => void;
  onLoad: (checkpoint: Checkpoint) => void;
  onEdit: (checkpoint: Checkpoint) => void;
}

/** All checkpoints that still exist, the newest first. */
export function CheckpointTable({ checkpoints, metric, chosen, ticked, whyNot, whyNotEdit, onChoose, onTick, onLoad, onEdit }: Props) {
  return (
    <Table.ScrollContainer minWidth={880} maxHeight={520}>
      <Table verticalSpacing={6} stickyHeader>
        <Table.Thead>
          <Table.Tr>
            <Table.Th>Compare</Table.Th>
            <Table.Th ta="right">Step</Table.Th>
            <Table.Th>Checkpoint</Table.Th>
            <Table.Th>Branch</Table.Th>
            <Table.Th ta="right">
              <Name text={metric} />
            </Table.Th>
            <Table.Th ta="right">Size</Table.Th>
            <Table.Th>Saved</Table.Th>
            <Table.Th aria-label="What can be done" />
          </Table.Tr>
        </Table.Thead>
        <Table.Tbody>
          {checkpoints.toReversed().map((checkpoint) => {
            const { checkpoint_id: id, tag, kept_as: keptAs, problem } = checkpoint;
            const name = (tag ?? id).slice(0, 80);
            const isTicked = ticked.includes(id);
            return (
              <Table.Tr key={id} bg={id === chosen ? "var(--mantine-primary-color-light)" : undefined} aria-current={id === chosen || undefined}>
                <Table.Td>
                  <Checkbox size="xs" aria-label={`Compare ${name} of step ${checkpoint.step ?? "?"}`} checked={isTicked} disabled={!isTicked && ticked.length >= 2} onChange={() => onTick(checkpoint)} />
                </Table.Td>
                <Table.Td ta="right">{told(checkpoint.step)}</Table.Td>
                <Table.Td maw={280} style={{ overflow: "hidden" }}>
                  <UnstyledButton onClick={() => onChoose(checkpoint)} maw="100%" style={{ overflow: "hidden" }} fz="sm">
                    <Name text={tag ?? id} mono />
                  </UnstyledButton>
                  <Group gap={4}>
                    <Marks checkpoint={checkpoint} kept={KEPT[keptAs]} />
                  </Group>
                  {problem && (
                    <Text size="xs" c="red">
                      {problem}
                    </Text>
                  )}
                </Table.Td>
                <Table.Td maw={160} style={{ overflow: "hidden" }}>
                  <Name text={checkpoint.branch} mono />
                </Table.Td>
                <Table.Td ta="right">{told(checkpoint.metric)}</Table.Td>
                <Table.Td ta="right">{toldBytes(checkpoint.size_bytes)}</Table.Td>
                <Table.Td>
                  <Ago at={checkpoint.at_s} />
                </Table.Td>
                <Table.Td>
                  <Group gap={6} wrap="nowrap">
                    <Offered whyNot={problem || whyNot} label={`Load… ${name}`} onClick={() => onLoad(checkpoint)}>
                      Load…
                    </Offered>
                    <Offered whyNot={whyNotEdit} label={`Edit… ${name}`} onClick={() => onEdit(checkpoint)}>
                      Edit…
                    </Offered>
                  </Group>
                </Table.Td>
              </Table.Tr>
            );
          })}
        </Table.Tbody>
      </Table>
    </Table.ScrollContainer>
  );
}

function Marks({ checkpoint, kept }: { checkpoint: Checkpoint; kept: (typeof KEPT)[Checkpoint["kept_as"]] }) {
  return (
    <>
      {kept && (
        <Badge size="xs" variant="light" color={kept.color} title={kept.title}>
          {kept.text}
        </Badge>
      )}
      {checkpoint.pinned && (
        <Badge size="xs" variant="light" color="grape" title="Never deleted to keep within the disk cap.">
          pinned
        </Badge>
      )}
      {checkpoint.keep_in === "memory" && (
        <Badge size="xs" variant="outline" color="gray" title="Gone when the training process ends.">
          in memory
        </Badge>
      )}
      {checkpoint.is_before && (
        <Badge size="xs" variant="outline" color="gray" title="It lay there when the run began.">
          from before
        </Badge>
      )}
    </>
  );
}
