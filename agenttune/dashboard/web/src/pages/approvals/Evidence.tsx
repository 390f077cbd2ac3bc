import { Box, Group, Text } from "@mantine/core";

import { told } from "../../components/numbers";
import type { ShownRun } from "./ApprovalCard";
import { askedNext, askedOf, stalenessInWords, type Waiting } from "./facts";
import { Part } from "./Part";

/** What a request rests on, and how old that is. */
export function Evidence({ record: { request, proposal }, run }: { record: Waiting; run: ShownRun }) {
  const value = request.metric_value;
  const rows: [string, string][] = [
    ["Staleness", stalenessInWords(request, proposal.based_on_step, run.step)],
    ["The run is now", `${run.status}, at step ${told(run.step)}${typeof run.max_steps === "number" ? ` of ${told(run.max_steps)}` : ""}`],
    ["Branch", request.branch],
    ...(request.metric ? ([[request.metric, value === null || value === undefined ? "not evaluated yet" : told(value)]] as [string, string][]) : []),
    ["Rule", `${request.rule}, asked: ${askedOf(request)}${askedNext(request) ? `, then ${askedNext(request)}` : ""}`],
    ...(request.passed ?? []).map(({ by, reason: why }): [string, string] => ["Left open by", `${by}: ${why || "no reason given"}`]),
  ];
  return (
    <Part title="What it rests on">
      <Box component="dl" m={0} fz="sm">
        {rows.map(([label, text], index) => (
          <Group key={`${label}${index}`} gap="sm" wrap="nowrap" align="start">
            <Text component="dt" c="dimmed" size="sm" w={120} style={{ flexShrink: 0, overflowWrap: "anywhere" }}>
              <bdi>{label.slice(0, 120)}</bdi>
            </Text>
            <Text component="dd" m={0} size="sm" style={{ overflowWrap: "anywhere" }}>
              <bdi>{text.slice(0, 1000)}</bdi>
            </Text>
          </Group>
        ))}
      </Box>
    </Part>
  );
}
