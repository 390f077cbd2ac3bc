import { SimpleGrid, Text } from "@mantine/core";
import { Suspense, type ComponentProps } from "react";

import type { Around } from "../../api/schema";
import type { AroundChart as Chart } from "../../components/decision/AroundChart";
import { lazily } from "../../lazily";
import { Part } from "./Part";

const AroundChart = lazily<ComponentProps<typeof Chart>>(() => import("../../components/decision/AroundChart").then(({ AroundChart: found }) => ({ default: found })));

/** The goal and the loss around the step of a request, which is marked. */
export function Curves({ curves, step }: { curves: readonly Around[]; step: number }) {
  const drawn = curves.filter(({ before, after }) => before.length + after.length > 1);
  if (drawn.length === 0) return null;
  return (
    <Part title="The curves, with the step of the request marked">
      <Suspense fallback={<Text size="sm">The curves are being loaded.</Text>}>
        <SimpleGrid cols={{ base: 1, sm: Math.min(2, drawn.length) }} spacing="sm" mt={4}>
          {drawn.map((around) => (
            <AroundChart key={around.metric} around={around} step={step} height={120} />
          ))}
        </SimpleGrid>
      </Suspense>
    </Part>
  );
}
