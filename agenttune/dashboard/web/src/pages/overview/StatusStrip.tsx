import { Alert, Anchor, Paper, Progress, SimpleGrid, Stack, Text } from "@mantine/core";
import type { ReactNode } from "react";
import { Link } from "wouter";

import { useCommands } from "../../api/queries";
import type { RunInfo } from "../../api/schema";
import { Loaded } from "../../components/Loaded";
import { Name } from "../../components/Name";
import { told, toldDuration, type Metric } from "../../components/numbers";
import { isLive } from "../../components/RunStatus";
import { pathOf } from "../../routes";
import { useAgentNow } from "./reads";
import { useRunRow } from "./useRunRow";

interface Props {
  run: RunInfo;
  loss: { name: string; value: Metric } | null;
}

/** How the run stands, in one line of figures; what waits for a person stands above. */
export function StatusStrip({ run, loss }: Props) {
  const row = useRunRow(run.run_id).data;
  const agent = useAgentNow(run.run_id);
  const rate = run.knobs?.find(({ name }) => name === "lr");
  const goal = row?.goal;
  return (
    <Stack gap="xs">
      <WaitingAlert runId={run.run_id} />
      <Paper withBorder p="sm">
        <SimpleGrid cols={{ base: 2, xs: 3, md: 6 }} spacing="md" verticalSpacing="xs">
          <Stat name="Step" value={typeof run.max_steps === "number" ? `${told(run.step)} / ${told(run.max_steps)}` : told(run.step)}>
            {typeof run.max_steps === "number" && run.max_steps > 0 && (
              <Progress size="xs" mt={4} value={(100 * (run.step)) / run.max_steps} aria-label="Progress" />
            )}
          </Stat>
          <Stat name="Time left" value={timeLeft(run, row?.time_left_s)} note={pace(row?.steps_per_s)} />
          <Stat name={goal?.metric ?? run.goal_metric} value={told(goal?.newest)} note={bestOf(goal)} />
          <Stat name={loss?.name ?? "loss"} value={told(loss?.value)} note="training loss" />
          <Stat
            name="Learning rate"
            value={told(rate?.effective as Metric | null | undefined)}
            note={rate ? `in use; base ${told(rate.base)}` : "not known"}
          />
          <Stat name="Policy" value={row?.policy ?? "none"} note={row && row.critical > 0 ? `${row.critical} critical finding${row.critical === 1 ? "" : "s"}` : "no critical finding"} />
        </SimpleGrid>
        <Text size="sm" mt="xs" component="div">
          <Text span inherit fw={600}>
            Now:{" "}
          </Text>
          <Loaded query={agent} height={18}>
            {(found) => <span className="words-inline">{found.words}</span>}
          </Loaded>
        </Text>
      </Paper>
    </Stack>
  );
}

function Stat({ name, value, note, children }: { name: string; value: string; note?: string; children?: ReactNode }) {
  return (
    <div style={{ minWidth: 0 }}>
      <Text size="xs" c="dimmed" truncate="end" component="div">
        <Name text={name} />
      </Text>
      <Text fw={600} truncate="end" component="div">
        <Name text={value} />
      </Text>
      {note && (
        <Text size="xs" c="dimmed" truncate="end" title={note}>
          {note}
        </Text>
      )}
      {children}
    </div>
  );
}

function WaitingAlert({ runId }: { runId: string }) {
  const waiting = useCommands(runId).data?.commands.filter(({ state, request }) => state === "proposed" && request) ?? [];
  if (waiting.length === 0) return null;
  return (
    <Alert color="orange" p="xs" role="status">
      {waiting.length === 1 ? "One request waits" : `${waiting.length} requests wait`} for your decision.{" "}
      <Anchor component={Link} href={pathOf(runId, "approvals")} fw={600} size="sm" c="inherit" underline="always">
        Look and decide
      </Anchor>
    </Alert>
  );
}

function timeLeft(run: RunInfo, left: number | null | undefined): string {
  if (!isLive(run.status)) return run.status;
  if (run.status === "paused") return "paused";
  return typeof left === "number" ? toldDuration(left) : "–";
}

function pace(stepsPerS: number | null | undefined): string {
  return typeof stepsPerS === "number" ? `${told(stepsPerS)} steps/s` : "";
}

function bestOf(goal: { best?: Metric | null; best_step?: number | null; is_goal: boolean } | undefined): string {
  if (!goal) return "";
  if (!goal.is_goal) return "the goal was not measured yet";
  return goal.best === null || goal.best === undefined ? "" : `best ${told(goal.best)} at step ${told(goal.best_step)}`;
}
