import { Alert, Group, SimpleGrid, Stack, Text, TextInput } from "@mantine/core";
import { useMutation, useQueryClient } from "@tanstack/react-query";
import { useMemo, useState } from "react";

import { answerOf, sentenceOf, server } from "../../api/client";
import { keys, useModel } from "../../api/queries";
import type { Model, ModuleInfo } from "../../api/schema";
import { useWhyNot } from "../../components/command/useWhyNot";
import { Ago } from "../../components/Ago";
import { Loaded } from "../../components/Loaded";
import { useNothing } from "../../components/nothing";
import { Offered } from "../../components/Offered";
import { told } from "../../components/numbers";
import type { RunPageProps } from "../../routes";
import { useUrlState } from "../../urlState";
import { LayerPanel } from "./LayerPanel";
import { LayerTree } from "./LayerTree";
import { allLayers, layerNamed, openAtFirst, rowsOf, waysTo } from "./tree";

/** The model's layers, what was measured of them, and what can be done to each. */
export default function ModelPage({ runId }: RunPageProps) {
  const model = useModel(runId);
  const nothing = useNothing(runId);
  return (
    <Loaded query={model} empty={{ when: (answer) => !answer.model, say: nothing("layers") }}>
      {(answer) => answer.model && <Layers runId={runId} answer={answer} root={answer.model} />}
    </Loaded>
  );
}

const MEASURE_WAIT_S = 20;

/** Asks the trainer to measure all norms now. */
function useMeasure(runId: string) {
  const client = useQueryClient();
  return useMutation({
    mutationFn: (): Promise<Model> =>
      answerOf(server.GET("/api/v1/runs/{run_id}/model", { params: { path: { run_id: runId }, query: { norms: true, wait_s: MEASURE_WAIT_S } } })),
    onSettled: () => client.invalidateQueries({ queryKey: keys.run(runId, "commands") }),
  });
}

function Layers({ runId, answer, root }: { runId: string; answer: Model; root: ModuleInfo }) {
  const [search, setSearch] = useUrlState("search");
  const [selected, setSelected] = useUrlState("layer");
  const [toggled, setToggled] = useState<ReadonlySet<string>>(() => new Set([...openAtFirst(root), ...waysTo(selected)]));
  const measure = useMeasure(runId);
  const whyNot = useWhyNot(runId, "read_model");
  const measured = measure.data?.model ?? null;
  const norms = useMemo(() => measured && new Map(allLayers(measured).map((found) => [found.name, found])), [measured]);
  const rows = useMemo(() => rowsOf(root, toggled, search), [root, toggled, search]);
  // What can be done to a layer, and what is trained, is as last read; norms are as measured.
  const layer = withNorms(layerNamed(root, selected) ?? root, norms);
  const toggle = ({ name }: ModuleInfo) => {
    const next = new Set(toggled);
    if (!next.delete(name)) next.add(name);
    setToggled(next);
  };
  return (
    <Stack gap="sm">
      <Group gap="sm">
        <TextInput aria-label="Search layers by name or type" placeholder="Search layers" value={search} onChange={(event) => setSearch(event.currentTarget.value)} maw={280} style={{ flex: 1 }} maxLength={200} />
        <Offered whyNot={whyNot || (measure.isPending ? "The trainer is measuring." : "")} onClick={() => measure.mutate()}>
          {measure.isPending ? "Measuring…" : "Measure norms now"}
        </Offered>
        <Text size="sm" c="dimmed" role="status">
          {told(root.parameters)} parameters, {told(root.trainable)} trained; read at step {told(answer.step)}
          {answer.at_s != null && (
            <>
              {" "}
              (<Ago at={answer.at_s} />)
            </>
          )}
          {measure.data && `; norms measured at step ${told(measure.data.step)}${measure.data.message && `: ${measure.data.message}`}`}
        </Text>
      </Group>
      {measure.isError && (
        <Alert color="red" role="alert" title="Norms could not be measured">
          {sentenceOf(measure.error)}
        </Alert>
      )}
      <SimpleGrid cols={{ base: 1, md: 2 }} spacing="lg">
        <Stack gap={4} miw={0}>
          <Text size="xs" c="dimmed" ta="right">
            {norms ? "norm of weights, of the last gradient, parameters" : "parameters"}
          </Text>
          {rows.length === 0 ? (
            <Text c="dimmed">No layer has “{search}” in its name or type.</Text>
          ) : (
            <LayerTree rows={rows} selected={layer.name} norms={norms} onSelect={({ name }) => setSelected(name)} onToggle={toggle} />
          )}
        </Stack>
        <LayerPanel runId={runId} layer={layer} key={layer.name} />
      </SimpleGrid>
    </Stack>
  );
}

function withNorms(layer: ModuleInfo, norms: ReadonlyMap<string, ModuleInfo> | null): ModuleInfo {
  const found = norms?.get(layer.name);
  return found ? { ...layer, weight_norm: found.weight_norm ?? null, grad_norm: found.grad_norm ?? null } : layer;
}
