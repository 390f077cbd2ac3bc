import { Stack, Text } from "@mantine/core";
import { useMemo } from "react";

import { useBranches } from "../../api/queries";
import type { FindingRead, Intervention, RunInfo } from "../../api/schema";
import { MarkStrip } from "../../charts/MarkStrip";
import { useZoom, type Range } from "../../charts/zoom";
import { stepOf } from "../../components/decision/words";
import { useUrlRange } from "../../urlState";
import { BranchChart } from "./BranchChart";
import type { OverviewMetrics } from "./names";
import { commandMarks, findingMarks } from "./overviewMarks";

interface Props {
  run: RunInfo;
  metrics: OverviewMetrics;
  history: readonly Intervention[];
  findings: readonly FindingRead[];
  decision: string;
  onDecision: (commandId: string) => void;
  finding: string;
  onFinding: (seq: string) => void;
}

const COLOR = "#1c7ed6";

/** The goal, the loss and the rate over steps, with marks where something was seen or changed. */
export function OverviewCharts({ run, metrics, history, findings, decision, onDecision, finding, onFinding }: Props) {
  const [range, setRange] = useUrlRange();
  const end = Math.max(run.step, ...history.map(stepOf), ...findings.map(({ step }) => step), 1);
  const whole: Range = [0, end];
  const zoom = useZoom(whole, range, setRange);
  const branches = useBranches(run.run_id);
  const commands = useMemo(() => commandMarks(history), [history]);
  const seen = useMemo(() => findingMarks(findings), [findings]);
  const chosen = history.find((one) => one.command_id === decision);
  const chosenFinding = findings.find(({ seq }) => String(seq) === finding);
  const marks = useMemo(
    () => [
      ...history.filter((one) => one.applied_at_step !== null && one.applied_at_step !== undefined).map((one) => ({ at: stepOf(one), color: COLOR, strong: one === chosen })),
      ...(chosenFinding ? [{ at: chosenFinding.step, color: "#e8590c", strong: true }] : []),
    ],
    [history, chosen, chosenFinding],
  );
  const spans = useMemo(() => {
    const until = chosen?.effect?.until_step;
    return chosen && typeof until === "number" ? [{ from: stepOf(chosen), to: until, color: "rgba(28,126,214,0.10)" }] : [];
  }, [chosen]);
  const shown = range ?? whole;
  const shared = { run, branches: branches.data, zoom, range, marks, spans };
  return (
    <Stack gap={4}>
      <MarkStrip name="Commands along the run" marks={commands} zoom={zoom} range={shown} chosen={decision} onChoose={onDecision} />
      {seen.length > 0 && <MarkStrip name="Findings along the run" marks={seen} zoom={zoom} range={shown} chosen={finding} onChoose={onFinding} />}
      {metrics.goal && <BranchChart {...shared} name={metrics.goal} height={180} />}
      {metrics.loss && <BranchChart {...shared} name={metrics.loss} height={170} />}
      {metrics.rate && <BranchChart {...shared} name={metrics.rate} height={115} />}
      <Text size="xs" c="dimmed">
        {commands.length > 0 ? "Each mark above is a command (✓ kept, ↩ taken back, ● applied) or a finding (!): choose one to read its story. " : ""}
        Drag over a chart to zoom in, double-click to see all; Ctrl and wheel zoom, Shift and drag move.
      </Text>
    </Stack>
  );
}
