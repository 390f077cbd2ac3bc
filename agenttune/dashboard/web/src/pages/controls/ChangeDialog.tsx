import { Button, Group, Modal, Stack, Text, Textarea, TextInput } from "@mantine/core";
import { useDebouncedValue } from "@mantine/hooks";
import { useState } from "react";

import { useDryRun } from "../../api/steering";
import type { CommandSchema, KnobState } from "../../api/schema";
import { parsedLike, written } from "../../components/command/values";
import { useWhyNot } from "../../components/command/useWhyNot";
import { toldValue } from "../../components/decision/words";
import { Name } from "../../components/Name";
import { changeOf } from "./change";
import { DryRunAnswer, refusalOf } from "./DryRunAnswer";
import { useSend } from "./useSend";

const SETTLE_MS = 350;

interface Props {
  runId: string;
  /** The value to change; null: none, and no dialog. */
  knob: KnobState | null;
  /** The parameter group whose value alone it is; undefined: of all. */
  group: number | undefined;
  commands: readonly CommandSchema[];
  onClose: () => void;
}

/** One value by hand: what it is, what it would be, what the gate says of that. */
export function ChangeDialog({ knob, ...rest }: Props) {
  return (
    <Modal opened={knob !== null} onClose={rest.onClose} title={<Title knob={knob} group={rest.group} />} size="lg" closeButtonProps={{ "aria-label": "Close" }}>
      {knob && <Change key={`${knob.name} ${rest.group ?? ""}`} knob={knob} {...rest} />}
    </Modal>
  );
}

function Title({ knob, group }: Pick<Props, "knob" | "group">) {
  return (
    <>
      Change <Name text={knob?.name ?? ""} />
      {group !== undefined && ` of group ${group}`}
    </>
  );
}

function Change({ runId, knob, group, commands, onClose }: Omit<Props, "knob"> & { knob: KnobState }) {
  const [text, setText] = useState("");
  const [reason, setReason] = useState("");
  const whyNot = useWhyNot(runId, knob.command);
  const { send, isSending } = useSend(runId);
  const now: unknown = group === undefined ? knob.effective : knob.groups?.[group];
  const parsed = text.trim() === "" ? null : parsedLike(now, text);
  const problem = parsed?.problem;
  const command = parsed === null || parsed.problem !== undefined ? null : changeOf(knob, parsed.value, commands, group);
  const [settled] = useDebouncedValue(command === null ? "" : JSON.stringify(command), SETTLE_MS);
  const asked = settled === "" ? null : (JSON.parse(settled) as NonNullable<typeof command>);
  const dry = useDryRun(runId, whyNot === "" ? asked : null);
  const refusal = command !== null && settled === JSON.stringify(command) ? refusalOf(dry) : "";
  const apply = async () => {
    if (refusal === "" && command !== null && (await send(command, reason.trim() || "by hand"))) onClose();
  };
  return (
    <Stack gap="sm" component="form" onSubmit={(event) => { event.preventDefault(); void apply(); }}>
      {knob.description && <Text size="sm">{knob.description}</Text>}
      <TextInput
        label="New value"
        description={["now", toldValue(now), knob.unit, limitsOf(knob)].filter(Boolean).join(" ")}
        placeholder={written(now)}
        value={text}
        error={problem}
        disabled={whyNot !== ""}
        autoComplete="off"
        data-autofocus
        onChange={({ currentTarget: { value } }) => setText(value)}
      />
      {whyNot && (
        <Text size="sm" c="dimmed">
          {whyNot}
        </Text>
      )}
      {asked !== null && <DryRunAnswer query={dry} />}
      <Textarea label="Why (goes into the log)" value={reason} onChange={({ currentTarget: { value } }) => setReason(value)} maxLength={2000} autosize minRows={1} disabled={whyNot !== ""} />
      <Group justify="flex-end">
        <Button variant="default" onClick={onClose}>
          Cancel
        </Button>
        <Button type="submit" loading={isSending} disabled={whyNot !== "" || command === null || refusal !== ""} title={refusal || undefined}>
          Send
        </Button>
      </Group>
    </Stack>
  );
}

function limitsOf({ minimum, maximum }: KnobState): string {
  if (minimum === null && maximum === null) return "";
  return `(from ${toldValue(minimum)} to ${toldValue(maximum)})`;
}
