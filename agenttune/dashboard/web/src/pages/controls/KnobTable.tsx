import { Anchor, Table, Text, UnstyledButton } from "@mantine/core";
import { Fragment, useState } from "react";

import type { KnobState } from "../../api/schema";
import { useWhyNot } from "../../components/command/useWhyNot";
import { toldValue } from "../../components/decision/words";
import { Name } from "../../components/Name";
import { told } from "../../components/numbers";
import { areAlike, groupsInWords } from "./change";

interface Props {
  runId: string;
  knobs: readonly KnobState[];
  /** Whether a value can be set for one parameter group alone. */
  hasGroups: (knob: KnobState) => boolean;
  onChange: (knob: KnobState, group?: number) => void;
}

/** So many groups are told at once; more are opened. */
const FEW_GROUPS = 4;

/** Every value that can be changed while the run goes on; base and effective, and group by group where groups differ. */
export function KnobTable({ runId, knobs, hasGroups, onChange }: Props) {
  return (
    <Table.ScrollContainer minWidth={320}>
      <Table verticalSpacing={4} horizontalSpacing={6} fz="sm" layout="fixed">
        <Table.Thead>
          <Table.Tr>
            <Table.Th>Value</Table.Th>
            <Table.Th w={70} ta="right" title="What the schedule scales">
              Base
            </Table.Th>
            <Table.Th w={92} ta="right" title="What is used at this step">
              Effective
            </Table.Th>
            <Table.Th w={66} ta="right" />
          </Table.Tr>
        </Table.Thead>
        <Table.Tbody>
          {knobs.map((knob) => (
            <Knob key={knob.name} runId={runId} knob={knob} hasGroups={hasGroups(knob)} onChange={onChange} />
          ))}
        </Table.Tbody>
      </Table>
    </Table.ScrollContainer>
  );
}

interface KnobProps {
  runId: string;
  knob: KnobState;
  hasGroups: boolean;
  onChange: Props["onChange"];
}

function Knob({ runId, knob, hasGroups, onChange }: KnobProps) {
  const whyNot = useWhyNot(runId, knob.command);
  const groups: readonly unknown[] = knob.groups ?? [];
  const [isOpen, setOpen] = useState(!areAlike(knob) && groups.length <= FEW_GROUPS);
  const words = groupsInWords(knob);
  return (
    <Fragment>
      <Table.Tr>
        <Table.Th scope="row" fw={600} style={{ overflowWrap: "anywhere" }}>
          <Name text={knob.unit ? `${knob.name} (${knob.unit})` : knob.name} wraps />
          {knob.description && (
            <Text size="xs" c="dimmed">
              {knob.description}
            </Text>
          )}
          {words && (
            <UnstyledButton display="block" fz="xs" c="dimmed" td="underline" aria-expanded={isOpen} onClick={() => setOpen(!isOpen)}>
              {words}
            </UnstyledButton>
          )}
        </Table.Th>
        <Table.Td ta="right">{told(knob.base)}</Table.Td>
        <Table.Td ta="right">
          {toldValue(knob.effective)}
        </Table.Td>
        <Table.Td ta="right">
          <Change whyNot={whyNot} label={`Change ${knob.name.slice(0, 100)}`} onPress={() => onChange(knob)} />
        </Table.Td>
      </Table.Tr>
      {isOpen &&
        groups.map((value, group) => (
          <Table.Tr key={group}>
            <Table.Th scope="row" fw={400} pl="lg">
              group {group}
            </Table.Th>
            <Table.Td ta="right">{told(knob.base_groups?.[group])}</Table.Td>
            <Table.Td ta="right">{toldValue(value)}</Table.Td>
            <Table.Td ta="right">
              {hasGroups && <Change whyNot={whyNot} label={`Change ${knob.name.slice(0, 100)} of group ${group}`} onPress={() => onChange(knob, group)} />}
            </Table.Td>
          </Table.Tr>
        ))}
    </Fragment>
  );
}

function Change({ whyNot, label, onPress }: { whyNot: string; label: string; onPress: () => void }) {
  const [refused, title] = [whyNot !== "", whyNot || undefined];
  return (
    <Anchor
      component="button"
      type="button"
      size="sm"
      {...(refused ? { c: "dimmed" } : {})}
      aria-label={label}
      aria-disabled={refused}
      aria-description={title}
      title={title}
      onClick={() => !refused && onPress()}
    >
      Change
    </Anchor>
  );
}
