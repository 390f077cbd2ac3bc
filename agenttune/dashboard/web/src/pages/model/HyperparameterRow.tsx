import { Group, Select, Table, TextInput } from "@mantine/core";
import { useState } from "react";

import type { ParameterInfo } from "../../api/schema";
import type { Command } from "../../components/command/CommandDialog";
import { parsedLike, shownValue, written } from "../../components/command/values";
import { Name } from "../../components/Name";
import { Offered } from "../../components/Offered";

interface Props {
  layerName: string;
  parameter: ParameterInfo;
  whyNot: string;
  onAsk: (command: Command) => void;
}

/** One hyperparameter of a layer: what it is now, and a field for what it shall be. */
export function HyperparameterRow({ layerName, parameter, whyNot, onAsk }: Props) {
  const { name, value, type } = parameter;
  const isTensor = type === "tensor";
  const [text, setText] = useState(isTensor ? "" : written(value));
  const parsed = parsedLike(isTensor ? 0 : value, text);
  const isSame = !isTensor && text === written(value);
  const label = `New value of ${name.slice(0, 80)}`;
  return (
    <Table.Tr>
      <Table.Td>
        <Name text={name} mono />
      </Table.Td>
      <Table.Td style={{ overflowWrap: "anywhere" }}>{shownValue(value)}</Table.Td>
      <Table.Td>
        <Group gap={6} wrap="nowrap" align="flex-start">
          {type === "bool" ? (
            <Select size="xs" aria-label={label} data={["true", "false"]} value={text} onChange={(next) => setText(next ?? "true")} disabled={whyNot !== ""} allowDeselect={false} w={120} />
          ) : (
            <TextInput
              size="xs"
              w={120}
              aria-label={label}
              inputMode={type === "str" ? "text" : "decimal"}
              placeholder={isTensor ? "fill with" : undefined}
              value={text}
              error={!isSame && text !== "" && parsed.problem}
              onChange={(event) => setText(event.currentTarget.value)}
              disabled={whyNot !== ""}
            />
          )}
          <Offered
            whyNot={whyNot || (isSame ? "This is its value now." : (parsed.problem ?? ""))}
            label={`Set… ${name.slice(0, 80)}`}
            onClick={() => {
              if (parsed.problem !== undefined) return;
              onAsk({ kind: "model_layer_parameter_update", layer_name: layerName, param_name: name, value: parsed.value as number | string | boolean });
            }}
          >
            Set…
          </Offered>
        </Group>
      </Table.Td>
    </Table.Tr>
  );
}
