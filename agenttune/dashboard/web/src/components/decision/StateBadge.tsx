import { Badge } from "@mantine/core";

import type { State } from "../../api/schema";
import { STATES } from "./words";

/** The state of a command, as a word with a sign; the colour alone says nothing. */
export function StateBadge({ state }: { state: State }) {
  const { color, sign, says } = STATES[state];
  return (
    <Badge color={color} variant="light" title={`This command ${says}.`} leftSection={<span aria-hidden>{sign}</span>}>
      {state}
    </Badge>
  );
}
