import { Box, Stack, Text } from "@mantine/core";

import type { LrCourse } from "../../api/schema";
import { useWhyNot } from "../../components/command/useWhyNot";
import { asNumber } from "../../components/numbers";
import { Offered } from "../../components/Offered";
import { RatesPlot } from "./RatesPlot";

/** The learning rate to come, as the schedule in force has it. */
export function SchedulePanel({ runId, schedule, onPlan }: { runId: string; schedule: LrCourse | null | undefined; onPlan: () => void }) {
  const whyNot = useWhyNot(runId, "update_schedule");
  if (!schedule) return <Text c="dimmed">This training loop has not told its schedule.</Text>;
  const { tracks, steps, can_be_planned: canPlan, text, kind } = schedule;
  const rates = tracks.flatMap(({ groups, shares, rates: first }) =>
    groups.map((group, index) => {
      const values = first.map((rate) => (asNumber(rate) ?? 0) * (shares[index] ?? 1));
      return { group, steps, before: values, after: values };
    }),
  );
  return (
    <Stack gap="xs">
      <Text size="sm">{text || kind}</Text>
      {steps.length > 1 && <RatesPlot rates={rates} isPlan={false} />}
      {canPlan ? (
        <Box>
          <Offered whyNot={whyNot} onClick={onPlan}>
            Plan another schedule…
          </Offered>
        </Box>
      ) : (
        <Text size="sm" c="dimmed">
          {kind} cannot be replanned while it runs; the learning rate itself can be set.
        </Text>
      )}
    </Stack>
  );
}
