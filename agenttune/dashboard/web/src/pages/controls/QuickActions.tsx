import { Group } from "@mantine/core";
import { useState } from "react";

import type { RunInfo } from "../../api/schema";
import { CommandDialog, type Command } from "../../components/command/CommandDialog";
import { useWhyNot } from "../../components/command/useWhyNot";
import { Offered } from "../../components/Offered";
import { useSend } from "./useSend";

/** What one wants most often, one press each; stopping asks first. */
export function QuickActions({ runId, info }: { runId: string; info: RunInfo }) {
  const { send, isSending } = useSend(runId);
  const [stopping, setStopping] = useState<Command | null>(null);
  const isPaused = info.status === "paused";
  const whyNotStop = useWhyNot(runId, "stop_training");
  const press = (kind: string) => void send({ kind });
  return (
    <Group gap="xs" role="group" aria-label="Quick actions">
      {isPaused ? (
        <Quick runId={runId} kind="resume_training" label="Resume" isBusy={isSending} onPress={press} />
      ) : (
        <Quick runId={runId} kind="pause_training" label="Pause" isBusy={isSending} onPress={press} />
      )}
      <Quick runId={runId} kind="do_evaluate" label="Evaluate now" isBusy={isSending} onPress={press} />
      <Quick runId={runId} kind="save_checkpoint" label="Save a checkpoint" isBusy={isSending} onPress={press} />
      <Offered whyNot={whyNotStop} onClick={() => setStopping({ kind: "stop_training", save: true })}>
        Stop…
      </Offered>
      <CommandDialog
        runId={runId}
        command={stopping}
        title="Stop the training"
        consequence="Training ends at this step, with a checkpoint. It does not go on by itself."
        onClose={() => setStopping(null)}
      />
    </Group>
  );
}

interface QuickProps {
  runId: string;
  kind: string;
  label: string;
  isBusy: boolean;
  onPress: (kind: string) => void;
}

function Quick({ runId, kind, label, isBusy, onPress }: QuickProps) {
  const whyNot = useWhyNot(runId, kind);
  return (
    <Offered whyNot={isBusy ? "The last command is on its way." : whyNot} onClick={() => onPress(kind)}>
      {label}
    </Offered>
  );
}
