import { Badge, Grid, Group, Loader, NativeSelect, Stack, Text, Textarea } from "@mantine/core";
import { useDebouncedValue } from "@mantine/hooks";
import { lazy, Suspense, useMemo, useState } from "react";

import { useDryRun } from "../../api/steering";
import type { CommandSchema } from "../../api/schema";
import { useWhyNot } from "../../components/command/useWhyNot";
import { toldKind } from "../../components/decision/words";
import { defaultsOf, givenArguments } from "../../forms/formSchema";
import { DryRunAnswer, refusalOf } from "./DryRunAnswer";
import { useFormHints } from "./hints";
import { useSend } from "./useSend";

const CommandForm = lazy(() => import("../../forms/CommandForm"));
const SETTLE_MS = 400;
const RISKS: Record<CommandSchema["risk"], { color: string; says: string }> = {
  observe: { color: "gray", says: "changes nothing" },
  tune: { color: "blue", says: "can be undone" },
  disrupt: { color: "yellow", says: "interrupts training" },
  danger: { color: "red", says: "cannot simply be undone" },
};

interface Props {
  runId: string;
  commands: readonly CommandSchema[];
  kind: string;
  onKind: (kind: string) => void;
  /** What stands in the form at first. */
  start: Record<string, unknown>;
}

/** Any command there is, by a form made from its schema; the gate's answer stands below before one sends. */
export function CommandComposer({ runId, commands, kind, onKind, start }: Props) {
  const command = commands.find((one) => one.kind === kind) ?? commands[0];
  if (command === undefined) return <Text c="dimmed">The server knows no commands.</Text>;
  return (
    <Stack gap="sm">
      <Group align="end" gap="sm">
        <NativeSelect
          label="Command"
          value={command.kind}
          onChange={({ currentTarget: { value } }) => onKind(value)}
          data={commands.map((one) => ({ value: one.kind, label: toldKind(one.kind) }))}
        />
        <Badge color={RISKS[command.risk].color} variant="light" mb={8}>
          {command.risk}: {RISKS[command.risk].says}
        </Badge>
      </Group>
      <Text size="sm" maw={720} style={{ whiteSpace: "pre-line" }}>
        {command.description}
      </Text>
      <Filled key={`${command.kind}${JSON.stringify(start)}`} runId={runId} commands={commands} command={command} start={start} />
    </Stack>
  );
}

function Filled({ runId, commands, command, start }: Omit<Props, "kind" | "onKind"> & { command: CommandSchema }) {
  const [values, setValues] = useState(() => ({ ...defaultsOf(command), ...start }));
  const [reason, setReason] = useState("");
  const whyNot = useWhyNot(runId, command.kind);
  const hints = useFormHints(runId);
  const hintsKey = JSON.stringify(hints);
  // The form is made anew only when what it knows of the run has changed.
  // eslint-disable-next-line react-hooks/exhaustive-deps
  const kept = useMemo(() => hints, [hintsKey]);
  const { send, isSending } = useSend(runId);
  const wanted = givenArguments(command, values);
  const needed = (command.json_schema.required ?? []) as string[];
  const isReady = needed.every((name) => name === "kind" || wanted[name] !== undefined);
  const [settled] = useDebouncedValue(JSON.stringify(wanted), SETTLE_MS);
  const asked = useMemo(
    () => ({ kind: command.kind, ...(JSON.parse(settled) as Record<string, unknown>) }),
    [command.kind, settled],
  );
  // An untouched form of a command that has arguments asks for nothing, so the gate is not asked either.
  const isUnfilled = !isReady || (Object.keys(wanted).length === 0 && command.fields.length > 0);
  const dry = useDryRun(runId, whyNot === "" && !isUnfilled ? asked : null);
  const refusal = isUnfilled || settled !== JSON.stringify(wanted) ? "" : refusalOf(dry);
  return (
    <Grid gap="lg">
      <Grid.Col span={{ base: 12, md: 7 }}>
        <Suspense fallback={<Loader size="sm" role="img" aria-label="Loading the form" />}>
        <CommandForm
          command={command}
          all={commands}
          values={values}
          onChange={setValues}
          onSubmit={(given) => void send(given, reason.trim())}
          hints={kept}
          disabled={whyNot !== "" || isSending}
          whyNotSend={refusal}
          submitLabel={`Send ${toldKind(command.kind)}`}
          before={
            <Textarea
              label="Why (goes into the log)"
              value={reason}
              onChange={({ currentTarget: { value } }) => setReason(value)}
              maxLength={4000}
              autosize
              minRows={1}
              disabled={whyNot !== ""}
            />
          }
        />
        </Suspense>
      </Grid.Col>
      <Grid.Col span={{ base: 12, md: 5 }}>
        {whyNot && (
        <Text size="sm" c="dimmed">
          {whyNot}
        </Text>
      )}
        {whyNot === "" && isUnfilled && (
          <Text size="sm" c="dimmed">
            What would change, and what the gate would say, stands here as soon as something is filled in.
          </Text>
        )}
        {whyNot === "" && !isUnfilled && <DryRunAnswer query={dry} />}
      </Grid.Col>
    </Grid>
  );
}
