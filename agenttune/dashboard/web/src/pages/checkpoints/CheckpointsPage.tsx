import { Group, Skeleton, Stack, Text } from "@mantine/core";
import { lazy, Suspense, useState } from "react";

import { useBranches, useCheckpoints, useRun } from "../../api/queries";
import type { Checkpoint } from "../../api/schema";
import { CommandDialog, type Command } from "../../components/command/CommandDialog";
import { useWhyNot } from "../../components/command/useWhyNot";
import { Fault } from "../../components/Fault";
import { Loaded } from "../../components/Loaded";
import { useNothing } from "../../components/nothing";
import { Offered } from "../../components/Offered";
import { isLive } from "../../components/RunStatus";
import type { RunPageProps } from "../../routes";
import { useUrlState } from "../../urlState";
import { CheckpointTable } from "./CheckpointTable";
import { CompareTable } from "./CompareTable";
import { DeleteForm } from "./DeleteForm";
import { EditForm } from "./EditForm";
import { LoadForm } from "./LoadForm";
import { SaveForm } from "./SaveForm";

const LineageGraph = lazy(() => import("./LineageGraph"));
const CONSEQUENCE: Partial<Record<Command["kind"], string>> = {
  load_checkpoint: "Training goes back to this state at its next step, and continues from there as a new branch. Nothing is lost: the branch it leaves stays in the log, with its checkpoints.",
  update_checkpoint: "Only its label and its pin change.",
  delete_checkpoints: "What is deleted cannot be brought back. What is pinned, what a branch began from, and what the run keeps by itself stays.",
  save_checkpoint: "The state of now is saved, at the next step.",
};

const TITLES: Partial<Record<Command["kind"], string>> = {
  load_checkpoint: "Go back?",
  save_checkpoint: "Save a checkpoint?",
  update_checkpoint: "Change this checkpoint?",
  delete_checkpoints: "Delete?",
};

/** The states that the run can go back to, and the branches that began there. */
export default function CheckpointsPage({ runId }: RunPageProps) {
  const checkpoints = useCheckpoints(runId);
  const branches = useBranches(runId);
  return (
    <Loaded query={checkpoints}>
      {({ checkpoints: known }) => (
        <>
          {branches.isError && branches.data === undefined && <Fault error={branches.error} onRetry={() => void branches.refetch()} />}
          <States runId={runId} checkpoints={known} />
        </>
      )}
    </Loaded>
  );
}

function States({ runId, checkpoints }: { runId: string; checkpoints: readonly Checkpoint[] }) {
  const run = useRun(runId).data;
  const nothing = useNothing(runId);
  const branches = useBranches(runId).data;
  const [chosen, setChosen] = useUrlState("checkpoint");
  const [tickedText, setTicked] = useUrlState("compare");
  const [loading, setLoading] = useState<Checkpoint | null>(null);
  const [asked, setAsked] = useState<Command | null>(null);
  const noLoad = useWhyNot(runId, "load_checkpoint");
  const [editing, setEditing] = useState<Checkpoint | null>(null);
  const [isDeleting, setDeleting] = useState(false);
  const noEdit = useWhyNot(runId, "update_checkpoint");
  const noDelete = useWhyNot(runId, "delete_checkpoints");
  const noSave = useWhyNot(runId, "save_checkpoint");
  const ticked = tickedText.split(",").filter((id) => checkpoints.some(({ checkpoint_id: known }) => known === id));
  const [one, other] = ticked.map((id) => checkpoints.find(({ checkpoint_id: known }) => known === id));
  const tick = ({ checkpoint_id: id }: Checkpoint) => setTicked((ticked.includes(id) ? ticked.filter((known) => known !== id) : [...ticked, id]).join(","));
  return (
    <Stack gap="md">
      {branches && (
        <Suspense fallback={<Skeleton height={300} role="img" aria-label="Loading" />}>
          <LineageGraph branches={branches.branches} checkpoints={checkpoints} now={{ branch: branches.current, step: run?.step ?? 0 }} isLive={run !== undefined && isLive(run.status)} selected={chosen} onSelect={setChosen} />
        </Suspense>
      )}
      <Group justify="space-between">
        <SaveForm whyNot={noSave} onAsk={setAsked} />
        <Offered whyNot={noDelete} onClick={() => setDeleting(true)}>
          Delete by a rule…
        </Offered>
      </Group>
      {checkpoints.length === 0 ? (
        <Text c="dimmed">{nothing("checkpoints")}</Text>
      ) : (
        <CheckpointTable
          checkpoints={checkpoints}
          metric={run?.goal_metric ?? "metric"}
          chosen={chosen}
          ticked={ticked}
          whyNot={noLoad}
          whyNotEdit={noEdit}
          onEdit={setEditing}
          onChoose={({ checkpoint_id: id }) => setChosen(id === chosen ? "" : id)}
          onTick={tick}
          onLoad={setLoading}
        />
      )}
      {one && other && <CompareTable pair={[one, other]} run={run} />}
      <LoadForm
        checkpoint={loading}
        onClose={() => setLoading(null)}
        onAsk={(command) => {
          setLoading(null);
          setAsked(command);
        }}
      />
      <EditForm
        checkpoint={editing}
        onClose={() => setEditing(null)}
        onAsk={(command) => {
          setEditing(null);
          setAsked(command);
        }}
      />
      <DeleteForm
        isOpen={isDeleting}
        branches={branches?.branches.map(({ name }) => name) ?? []}
        onClose={() => setDeleting(false)}
        onAsk={(command) => {
          setDeleting(false);
          setAsked(command);
        }}
      />
      <CommandDialog runId={runId} command={asked} title={(asked && TITLES[asked.kind]) ?? ""} consequence={(asked && CONSEQUENCE[asked.kind]) ?? ""} onClose={() => setAsked(null)} />
    </Stack>
  );
}
