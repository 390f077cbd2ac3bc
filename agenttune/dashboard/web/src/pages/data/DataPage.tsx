import { Stack, Text, Title } from "@mantine/core";
import { useState } from "react";

import { useDataset } from "../../api/queries";
import type { Dataset, DatasetRead } from "../../api/schema";
import { Ago } from "../../components/Ago";
import { CommandDialog, type Command } from "../../components/command/CommandDialog";
import { useWhyNot } from "../../components/command/useWhyNot";
import { Loaded } from "../../components/Loaded";
import { useNothing } from "../../components/nothing";
import { Name } from "../../components/Name";
import { told } from "../../components/numbers";
import type { RunPageProps } from "../../routes";
import { asWeights } from "./mixture";
import { MixtureWeights } from "./MixtureWeights";
import { ParameterForm } from "./ParameterForm";
import { SourceLosses } from "./SourceLosses";

/** The training dataset: what it is, what can be changed while it is drawn from, and what changes it as a whole. */
export default function DataPage({ runId }: RunPageProps) {
  const answer = useDataset(runId);
  const nothing = useNothing(runId);
  return (
    <Loaded query={answer} empty={{ when: ({ dataset }) => !dataset, say: nothing("dataset") }}>
      {(read) => read.dataset && <Parameters runId={runId} read={read} dataset={read.dataset} />}
    </Loaded>
  );
}

const CONSEQUENCE: Partial<Record<Command["kind"], string>> = {
  update_dataset_runtime_hyperparameters: "This is in force from the next batch on. The old values can be set again.",
  update_dataset: "The dataset is built anew from its constructor, and training goes on with it: steps, optimizer and schedule stay. That takes as long as building it took.",
};

function Parameters({ runId, read, dataset }: { runId: string; read: Dataset; dataset: DatasetRead }) {
  const [asked, setAsked] = useState<Command | null>(null);
  const { runtime = {}, initialization = {} } = dataset;
  const noRuntime = useWhyNot(runId, "update_dataset_runtime_hyperparameters");
  const noRebuild = useWhyNot(runId, "update_dataset");
  const mixtures = Object.entries(runtime).flatMap(([name, value]) => {
    const weights = asWeights(value);
    return weights ? [{ name, weights }] : [];
  });
  const plain = Object.fromEntries(Object.entries(runtime).filter(([, value]) => asWeights(value) === null));
  const setRuntime = (values: Record<string, unknown>) => setAsked({ kind: "update_dataset_runtime_hyperparameters", values });
  return (
    <Stack gap="lg">
      <div>
        <Title order={2} size="h4">
          <Name text={dataset.type} mono />
        </Title>
        <Text size="sm" c="dimmed">
          {dataset.size == null ? "of unknown length" : `${told(dataset.size)} samples`}; read at step {told(read.step)}
          {read.at_s != null && (
            <>
              {" "}
              (<Ago at={read.at_s} />)
            </>
          )}
        </Text>
      </div>
      {!dataset.interactive && (
        <Text>
          Nothing can be changed about this dataset. Make it with <code>agenttune.make_interactive_dataset</code>, or a{" "}
          <code>agenttune.Mixture</code> of several.
        </Text>
      )}
      {mixtures.map(({ name, weights }) => (
        <MixtureWeights key={`${name} ${JSON.stringify(weights)}`} name={name} weights={weights} whyNot={noRuntime} onAsk={(next) => setRuntime({ [name]: next })} />
      ))}
      {(mixtures.length > 0 || dataset.type.includes("Mixture")) && <SourceLosses runId={runId} sources={mixtures.flatMap(({ weights }) => Object.keys(weights))} />}
      {Object.keys(plain).length > 0 && (
        <ParameterForm key={`runtime ${JSON.stringify(plain)}`} title="Runtime parameters" hint="In force from the next batch on." values={plain} whyNot={noRuntime} onAsk={setRuntime} />
      )}
      {Object.keys(initialization).length > 0 && (
        <ParameterForm
          key={`initialization ${JSON.stringify(initialization)}`}
          title="Initialization parameters"
          hint="Another value builds the dataset anew."
          values={initialization}
          whyNot={noRebuild}
          onAsk={(values) => setAsked({ kind: "update_dataset", values })}
        />
      )}
      <CommandDialog runId={runId} command={asked} title="Change the training data?" consequence={(asked && CONSEQUENCE[asked.kind]) ?? ""} onClose={() => setAsked(null)} />
    </Stack>
  );
}
