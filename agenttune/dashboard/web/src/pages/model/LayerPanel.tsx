import { Badge, Group, Stack, Table, Text, Title } from "@mantine/core";
import { useState } from "react";

import type { ModuleInfo } from "../../api/schema";
import { CommandDialog, type Command } from "../../components/command/CommandDialog";
import { useWhyNot } from "../../components/command/useWhyNot";
import { Name } from "../../components/Name";
import { told } from "../../components/numbers";
import { HyperparameterRow } from "./HyperparameterRow";
import { LayerNorms } from "./LayerNorms";
import { OperationButtons } from "./OperationButtons";
import { trainedOf } from "./tree";

const TRAINED = {
  trained: "all of it is trained",
  partly: "some of it is trained",
  frozen: "frozen: none of it is trained",
  "": "no parameters",
};
const CONSEQUENCE: Partial<Record<Command["kind"], string>> = {
  model_layer_operation: "This changes the model at the next step, from a person's hand. Freezing can be undone; a reset throws the layer's weights away, and only a checkpoint brings them back.",
  model_layer_parameter_update: "This changes how the layer computes, from the next step on. The old value can be set again.",
};

/** The layer that is looked at: what it has, what can be done to it, how it moved. */
export function LayerPanel({ runId, layer }: { runId: string; layer: ModuleInfo }) {
  const [asked, setAsked] = useState<Command | null>(null);
  const { hyperparameters = [], operations = [] } = layer;
  const noUpdate = useWhyNot(runId, "model_layer_parameter_update");
  const noOperation = useWhyNot(runId, "model_layer_operation");
  return (
    <Stack gap="md" miw={0}>
      <div style={{ minWidth: 0 }}>
        <Title order={2} size="h4" style={{ overflow: "hidden" }}>
          <Name text={layer.name || layer.type} mono />
        </Title>
        <Text size="sm" c="dimmed">
          <Name text={layer.type} /> · {told(layer.parameters)} parameters · {TRAINED[trainedOf(layer)]}
          {trainedOf(layer) === "partly" && ` (${told(layer.trainable)})`}
        </Text>
        {layer.weight_norm != null && (
          <Group gap="xs" mt={4}>
            <Badge variant="light" color="gray" tt="none">
              weights {told(layer.weight_norm)}
            </Badge>
            <Badge variant="light" color="gray" tt="none">
              last gradient {told(layer.grad_norm)}
            </Badge>
          </Group>
        )}
      </div>
      {operations.length > 0 && <OperationButtons layer={layer} whyNot={noOperation} onAsk={setAsked} />}
      {hyperparameters.length > 0 && (
        <div>
          <Title order={3} size="h5">
            Hyperparameters
          </Title>
          <Table.ScrollContainer minWidth={320}>
            <Table verticalSpacing={4} withRowBorders={false}>
              <Table.Thead>
                <Table.Tr>
                  <Table.Th>Name</Table.Th>
                  <Table.Th>Now</Table.Th>
                  <Table.Th>New value</Table.Th>
                </Table.Tr>
              </Table.Thead>
              <Table.Tbody>
                {hyperparameters.map((parameter) => (
                  <HyperparameterRow key={`${layer.name} ${parameter.name}`} layerName={layer.name} parameter={parameter} whyNot={noUpdate} onAsk={setAsked} />
                ))}
              </Table.Tbody>
            </Table>
          </Table.ScrollContainer>
        </div>
      )}
      {operations.length === 0 && hyperparameters.length === 0 && (
        <Text size="sm" c="dimmed">
          Nothing can be changed about this layer itself.
        </Text>
      )}
      <LayerNorms runId={runId} layer={layer.name} />
      <CommandDialog
        runId={runId}
        command={asked}
        title="Change this layer?"
        consequence={(asked && CONSEQUENCE[asked.kind]) ?? ""}
        onClose={() => setAsked(null)}
      />
    </Stack>
  );
}
