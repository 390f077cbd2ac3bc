import { Badge, Button, Group, Table, Text, Title, UnstyledButton } from "@mantine/core";
import { useState } from "react";

import { useSchemas } from "../../api/queries";
import type { Intervention, State } from "../../api/schema";
import { EffectBadge } from "../../components/decision/EffectBadge";
import { StateBadge } from "../../components/decision/StateBadge";
import { effectWords, stepOf, toldKind, withArrows } from "../../components/decision/words";
import { Name } from "../../components/Name";
import { told } from "../../components/numbers";

/** What becomes of the training by a command that is no change of it. */
const QUIET: ReadonlySet<string> = new Set(["none", "hold"]);
/** Where a command ends that the trainer never got. */
const NEVER_DONE: ReadonlySet<State> = new Set(["rejected", "superseded", "expired"]);

interface Props {
  history: readonly Intervention[];
  /** What is said where nobody asked for anything. */
  nothing: string;
  chosen: string;
  onChoose: (commandId: string) => void;
}

/**
 * What was changed, why, and whether it helped; the newest first. Folded: what only looks, saves, notes or waits, and
 * what was refused or came to nothing.
 */
export function Interventions({ history, nothing, chosen, onChoose }: Props) {
  const schemas = useSchemas();
  const [isAll, setAll] = useState(false);
  const quiet = new Set(schemas.data?.commands.filter(({ impact }) => QUIET.has(impact)).map(({ kind }) => kind));
  const changes = history.filter(({ kind, state }) => !quiet.has(kind) && !NEVER_DONE.has(state));
  const others = history.length - changes.length;
  const undone = history.filter(({ kind, state }) => !quiet.has(kind) && NEVER_DONE.has(state)).length;
  const shown = isAll ? history : changes;
  return (
    <section aria-labelledby="interventions">
      <Title order={2} size="h4" id="interventions" mb="xs">
        What was changed{" "}
        <Text span c="dimmed" size="sm" fw={400}>
          {told(changes.length)}
        </Text>
      </Title>
      {shown.length === 0 ? (
        <Text c="dimmed">{others > 0 ? "Nothing of the training was changed." : nothing}</Text>
      ) : (
        <Table.ScrollContainer minWidth={860} maxHeight={460}>
          <Table stickyHeader verticalSpacing={6} highlightOnHover fz="sm" layout="fixed">
            <Table.Thead>
              <Table.Tr>
                <Table.Th w={80} ta="right">
                  Step
                </Table.Th>
                <Table.Th>What</Table.Th>
                <Table.Th>Why</Table.Th>
                <Table.Th w={120}>By</Table.Th>
                <Table.Th w={145}>State</Table.Th>
                <Table.Th w={160}>Did it help?</Table.Th>
              </Table.Tr>
            </Table.Thead>
            <Table.Tbody>
              {[...shown].reverse().map((one) => (
                <Row key={one.command_id} one={one} isChosen={one.command_id === chosen} onChoose={onChoose} />
              ))}
            </Table.Tbody>
          </Table>
        </Table.ScrollContainer>
      )}
      {others > 0 && (
        <Button mt="xs" size="compact-sm" variant="subtle" h="auto" maw="100%" styles={{ label: { whiteSpace: "normal", textAlign: "left" } }} aria-expanded={isAll} onClick={() => setAll(!isAll)}>
          {isAll ? "Only what was changed" : alsoInWords(others, undone)}
        </Button>
      )}
    </section>
  );
}

/** What is folded: how many commands, and of what sort. */
export function alsoInWords(others: number, undone: number): string {
  const quiet = others - undone;
  const refused = `${undone === 1 ? "one was" : `${told(undone)} were`} refused or came too late`;
  const sorts = [quiet > 0 ? "pauses, evaluations, saves, notes" : "", undone > 0 ? refused : ""].filter(Boolean);
  return `Also ${others === 1 ? "one command" : `${told(others)} commands`} that changed nothing: ${sorts.join("; ")}`;
}

function Row({ one, isChosen, onChoose }: { one: Intervention; isChosen: boolean; onChoose: (commandId: string) => void }) {
  return (
    <Table.Tr
      {...(isChosen ? { bg: "var(--mantine-primary-color-light)" } : {})}
      onClick={() => onChoose(one.command_id)}
      style={{ cursor: "pointer" }}
    >
      <Table.Td ta="right">{told(stepOf(one))}</Table.Td>
      <Table.Td>
        <UnstyledButton
          fz="sm"
          fw={600}
          w="100%"
          aria-pressed={isChosen}
          onClick={(event) => {
            event.stopPropagation();
            onChoose(isChosen ? "" : one.command_id);
          }}
        >
          <Text inherit truncate="end" component="span" display="block">
            {toldKind(one.kind)}: <bdi title={one.summary.slice(0, 2000)}>{withArrows(one.summary).slice(0, 300)}</bdi>
          </Text>
        </UnstyledButton>
      </Table.Td>
      <Table.Td>
        <Text inherit truncate="end" title={one.rationale.slice(0, 2000)}>
          {one.rationale}
        </Text>
      </Table.Td>
      <Table.Td>
        <Text inherit truncate="end">
          <Name text={one.author} />
        </Text>
      </Table.Td>
      <Table.Td>
        <StateBadge state={one.state} />
      </Table.Td>
      <Table.Td>
        <Group gap={4} title={one.effect ? effectWords(one.effect) : ""}>
          {one.effect ? <EffectBadge effect={one.effect} /> : "–"}
          {one.is_abandoned && (
            <Badge color="gray" variant="light" title="The run went back to a checkpoint from before this.">
              left behind
            </Badge>
          )}
        </Group>
      </Table.Td>
    </Table.Tr>
  );
}
