import { Group, Title } from "@mantine/core";
import { useState } from "react";

import type { ModuleInfo } from "../../api/schema";
import type { Command } from "../../components/command/CommandDialog";
import { Offered } from "../../components/Offered";
import { OperationForm } from "./OperationForm";
import { trainedOf } from "./tree";

interface Props {
  layer: ModuleInfo;
  whyNot: string;
  onAsk: (command: Command) => void;
}

/** What can be run on a layer. An operation of the user's own is asked for its parameters first. */
export function OperationButtons({ layer, whyNot, onAsk }: Props) {
  const [form, setForm] = useState("");
  const operation = (name: string, params: Record<string, unknown> = {}) =>
    onAsk({ kind: "model_layer_operation", layer_name: layer.name, operation_name: name, params });
  const trained = trainedOf(layer);
  return (
    <div>
      <Title order={3} size="h5" mb={4}>
        Operations
      </Title>
      <Group gap="xs">
        {(layer.operations ?? []).map((name) => {
          if (name === "reset_parameters") {
            return (
              <Offered key={name} whyNot={whyNot} onClick={() => operation(name)}>
                Reset parameters…
              </Offered>
            );
          }
          if (name === "requires_grad_") {
            return (
              <Group gap="xs" key={name}>
                {trained !== "frozen" && (
                  <Offered whyNot={whyNot} onClick={() => operation(name, { requires_grad: false })}>
                    Freeze…
                  </Offered>
                )}
                {trained !== "trained" && (
                  <Offered whyNot={whyNot} onClick={() => operation(name, { requires_grad: true })}>
                    Train it…
                  </Offered>
                )}
              </Group>
            );
          }
          return (
            <Offered key={name} whyNot={whyNot} onClick={() => setForm(form === name ? "" : name)}>
              {`${name}…`}
            </Offered>
          );
        })}
      </Group>
      {form !== "" && <OperationForm key={form} name={form} onAsk={(params) => operation(form, params)} />}
    </div>
  );
}
