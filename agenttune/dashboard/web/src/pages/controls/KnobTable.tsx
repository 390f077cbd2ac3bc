import { Anchor, Table, Text } from "@mantine/core";

import type { KnobState } from "../../api/schema";
import { toldValue } from "../../components/decision/words";
import { Name } from "../../components/Name";
import { told } from "../../components/numbers";

interface Props {
  knobs: readonly KnobState[];
  onChange: (knob: KnobState) => void;
}

/** Every value that can be changed while the run goes on; base and effective, and group by group where groups differ. */
export function KnobTable({ knobs, onChange }: Props) {
  return (
    <Table.ScrollContainer minWidth={520}>
      <Table verticalSpacing={4} fz="sm">
        <Table.Thead>
          <Table.Tr>
            <Table.Th>Value</Table.Th>
            <Table.Th ta="right" title="What the schedule scales">
              Base
            </Table.Th>
            <Table.Th ta="right" title="What is used at this step">
              Effective
            </Table.Th>
            <Table.Th>Groups</Table.Th>
            <Table.Th ta="right" />
          </Table.Tr>
        </Table.Thead>
        <Table.Tbody>
          {knobs.map((knob) => (
            <Table.Tr key={knob.name}>
              <Table.Th scope="row" fw={600}>
                <Name text={knob.unit ? `${knob.name} (${knob.unit})` : knob.name} />
                {knob.description && (
                  <Text size="xs" c="dimmed">
                    {knob.description}
                  </Text>
                )}
              </Table.Th>
              <Table.Td ta="right">{told(knob.base)}</Table.Td>
              <Table.Td ta="right">{toldValue(knob.effective)}</Table.Td>
              <Table.Td>{groupsInWords(knob)}</Table.Td>
              <Table.Td ta="right">
                <Anchor component="button" type="button" size="sm" onClick={() => onChange(knob)} aria-label={`Change ${knob.name.slice(0, 100)}`}>
                  Change
                </Anchor>
              </Table.Td>
            </Table.Tr>
          ))}
        </Table.Tbody>
      </Table>
    </Table.ScrollContainer>
  );
}

const SHOWN_GROUPS = 6;

/** Group by group, effective and base where they differ; all alike in a word. */
export function groupsInWords(knob: Pick<KnobState, "groups" | "base_groups" | "exempt_groups">): string {
  const groups: readonly unknown[] = knob.groups ?? [];
  if (groups.length <= 1) return "";
  const exempt = knob.exempt_groups ?? [];
  const bases = knob.base_groups ?? [];
  const kept = exempt.length ? `; unless named, ${exempt.map(String).join(", ")} stay${exempt.length === 1 ? "s" : ""} as it is` : "";
  if (new Set(groups.map((value) => JSON.stringify(value))).size === 1) return `all ${groups.length} alike${kept}`;
  const each = groups.slice(0, SHOWN_GROUPS).map((value, group) => {
    const base = bases[group];
    return `${group}: ${toldValue(value)}${base !== undefined && base !== value ? ` (base ${told(base)})` : ""}`;
  });
  const more = groups.length > SHOWN_GROUPS ? `, and ${groups.length - SHOWN_GROUPS} more` : "";
  return each.join(", ") + more + kept;
}
