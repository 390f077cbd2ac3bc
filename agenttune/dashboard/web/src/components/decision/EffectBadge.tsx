import { Badge } from "@mantine/core";

import type { Effect } from "../../api/schema";
import { effectWords, VERDICTS } from "./words";

/** Whether a change helped, in two words; the figures are in its title. */
export function EffectBadge({ effect }: { effect: Effect }) {
  const { word, color, sign } = VERDICTS[effect.verdict];
  return (
    <Badge color={color} variant="light" title={effectWords(effect)} leftSection={<span aria-hidden>{sign}</span>}>
      {word}
    </Badge>
  );
}
