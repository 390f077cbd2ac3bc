import { Button, Group, Select, Stack, Table, Text, Textarea, TextInput, Title } from "@mantine/core";
import { useState } from "react";

import { parsedLike, shownValue, written } from "../../components/command/values";
import { Name } from "../../components/Name";
import { Offered } from "../../components/Offered";

interface Props {
  title: string;
  /** What a change of these means, in a sentence. */
  hint: string;
  values: Readonly<Record<string, unknown>>;
  whyNot: string;
  onAsk: (changed: Record<string, unknown>) => void;
}

/** Parameters with a field each; only those that were changed are sent, in one command. */
export function ParameterForm({ title, hint, values, whyNot, onAsk }: Props) {
  const [typed, setTyped] = useState<Readonly<Record<string, string>>>({});
  const names = Object.keys(values);
  const changed = names.filter((name) => typed[name] !== undefined && typed[name] !== written(values[name]));
  const parsed = changed.map((name) => [name, parsedLike(values[name], typed[name] ?? "")] as const);
  const wrong = parsed.some(([, { problem }]) => problem !== undefined);
  const send = () => onAsk(Object.fromEntries(parsed.flatMap(([name, found]) => (found.problem === undefined ? [[name, found.value]] : []))));
  return (
    <Stack gap="xs">
      <div>
        <Title order={3} size="h5">
          {title}
        </Title>
        <Text size="sm" c="dimmed">
          {hint}
        </Text>
      </div>
      <Table.ScrollContainer minWidth={420}>
        <Table verticalSpacing={6}>
          <Table.Thead>
            <Table.Tr>
              <Table.Th>Name</Table.Th>
              <Table.Th>Now</Table.Th>
              <Table.Th>New value</Table.Th>
            </Table.Tr>
          </Table.Thead>
          <Table.Tbody>
            {names.map((name) => (
              <Table.Tr key={name}>
                <Table.Td maw={220} style={{ overflow: "hidden" }}>
                  <Name text={name} mono />
                </Table.Td>
                <Table.Td style={{ overflowWrap: "anywhere" }}>{shownValue(values[name])}</Table.Td>
                <Table.Td>
                  <Field
                    label={`New value of ${name.slice(0, 80)}`}
                    current={values[name]}
                    text={typed[name] ?? written(values[name])}
                    disabled={whyNot !== ""}
                    problem={parsed.find(([other]) => other === name)?.[1].problem}
                    onType={(text) => setTyped({ ...typed, [name]: text })}
                  />
                </Table.Td>
              </Table.Tr>
            ))}
          </Table.Tbody>
        </Table>
      </Table.ScrollContainer>
      <Group gap="sm">
        <Offered whyNot={whyNot || (changed.length === 0 ? "Nothing was changed." : wrong ? "A value is not what is wanted." : "")} onClick={send}>
          {`Send ${changed.length || ""}${changed.length === 1 ? " change…" : " changes…"}`.replace("  ", " ")}
        </Offered>
        <Button size="compact-sm" variant="subtle" disabled={changed.length === 0} onClick={() => setTyped({})}>
          As they are now
        </Button>
      </Group>
    </Stack>
  );
}

interface FieldProps {
  label: string;
  current: unknown;
  text: string;
  disabled: boolean;
  problem: string | undefined;
  onType: (text: string) => void;
}

function Field({ label, current, text, disabled, problem, onType }: FieldProps) {
  if (typeof current === "boolean") {
    return <Select size="xs" aria-label={label} data={["true", "false"]} value={text} onChange={(next) => onType(next ?? text)} allowDeselect={false} disabled={disabled} />;
  }
  if (typeof current === "object" && current !== null) {
    return <Textarea size="xs" aria-label={label} value={text} onChange={(event) => onType(event.currentTarget.value)} error={problem} disabled={disabled} autosize maxRows={8} ff="monospace" />;
  }
  return <TextInput size="xs" aria-label={label} value={text} onChange={(event) => onType(event.currentTarget.value)} error={problem} disabled={disabled} inputMode={typeof current === "number" ? "decimal" : "text"} />;
}
