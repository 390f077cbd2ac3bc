import { Anchor, Box, Group, NativeSelect, Stack, Table, Text, TextInput } from "@mantine/core";
import { useState } from "react";

import type { CommandRecord } from "../../api/schema";
import { Ago } from "../../components/Ago";
import { DecisionPanel } from "../../components/decision/DecisionPanel";
import { StateBadge } from "../../components/decision/StateBadge";
import { toldKind } from "../../components/decision/words";
import { Name } from "../../components/Name";
import { useNothing } from "../../components/nothing";
import { told } from "../../components/numbers";
import { useUrlState } from "../../urlState";
import { ALL_STATES, argumentsInWords, errorOf, found } from "./commandFilter";

const PAGE = 50;

/** All commands of the run with what became of them; the filter stands in the URL. */
export function CommandHistory({ runId, records }: { runId: string; records: readonly CommandRecord[] }) {
  const nothing = useNothing(runId);
  const [state, setState] = useUrlState("state");
  const [kind, setKind] = useUrlState("kind");
  const [by, setBy] = useUrlState("by");
  const [text, setText] = useUrlState("search");
  const [decision, setDecision] = useUrlState("decision");
  const [most, setMost] = useState(PAGE);
  const shown = found(records, { state, kind, by, text });
  const kinds = [...new Set(records.map(({ proposal }) => proposal.command.kind))].sort();
  return (
    <Stack gap="sm">
      <Group gap="sm" align="end">
        <NativeSelect label="State" value={state} onChange={(event) => setState(event.currentTarget.value)} data={[{ value: "", label: "all" }, ...ALL_STATES]} />
        <NativeSelect label="Kind" value={kind} onChange={(event) => setKind(event.currentTarget.value)} data={[{ value: "", label: "all" }, ...kinds]} />
        <NativeSelect label="By" value={by} onChange={(event) => setBy(event.currentTarget.value)} data={[{ value: "", label: "all" }, "agent", "operator"]} />
        <TextInput label="Search" value={text} onChange={(event) => setText(event.currentTarget.value)} />
        <Text size="sm" c="dimmed" role="status" pb={8}>
          {shown.length} of {records.length}
        </Text>
      </Group>
      {decision && <DecisionPanel runId={runId} commandId={decision} onClose={() => setDecision("")} />}
      {shown.length === 0 ? (
        <Text c="dimmed">{records.length === 0 ? nothing("asked") : "No command fits the filter."}</Text>
      ) : (
        <Table.ScrollContainer minWidth={640}>
          <Table verticalSpacing={4} fz="sm" highlightOnHover>
            <Table.Thead>
              <Table.Tr>
                <Table.Th>Step</Table.Th>
                <Table.Th>Command</Table.Th>
                <Table.Th>By</Table.Th>
                <Table.Th>State</Table.Th>
                <Table.Th>When</Table.Th>
              </Table.Tr>
            </Table.Thead>
            <Table.Tbody>
              {shown.slice(0, most).map((record) => (
                <HistoryRow key={record.proposal.command_id} record={record} onOpen={setDecision} />
              ))}
            </Table.Tbody>
          </Table>
        </Table.ScrollContainer>
      )}
      {shown.length > most && (
        <Anchor component="button" type="button" size="sm" onClick={() => setMost(most + PAGE)}>
          Show {Math.min(PAGE, shown.length - most)} more
        </Anchor>
      )}
    </Stack>
  );
}

function HistoryRow({ record, onOpen }: { record: CommandRecord; onOpen: (id: string) => void }) {
  const { proposal, state, ack, submitted_step: asked } = record;
  const error = errorOf(record);
  const args = argumentsInWords(proposal.command);
  return (
    <Table.Tr>
      <Table.Td>{told(ack?.step ?? asked)}</Table.Td>
      <Table.Td maw={420}>
        <Anchor component="button" type="button" size="sm" ta="left" onClick={() => onOpen(proposal.command_id ?? "")}>
          {toldKind(proposal.command.kind)}
        </Anchor>
        {args && (
          <Box style={{ overflow: "hidden", textOverflow: "ellipsis", whiteSpace: "nowrap" }}>
            <Name text={args} />
          </Box>
        )}
        {error && (
          <Text size="xs" c="red" lineClamp={2} style={{ overflowWrap: "anywhere" }}>
            <bdi>{error}</bdi>
          </Text>
        )}
      </Table.Td>
      <Table.Td maw={140} style={{ overflow: "hidden", textOverflow: "ellipsis" }}>
        <Name text={proposal.author.name} />
      </Table.Td>
      <Table.Td>
        <StateBadge state={state} />
      </Table.Td>
      <Table.Td>{proposal.created_at_s !== undefined && <Ago at={proposal.created_at_s} />}</Table.Td>
    </Table.Tr>
  );
}
