import { Text } from "@mantine/core";

import type { Approval } from "../../api/schema";
import { told } from "../../components/numbers";
import { costInWords, silenceInWords, type Waiting } from "./facts";
import { useServerNow, type ServerClock } from "./useServerNow";

const SOON_S = 60;

interface Props {
  record: Waiting;
  approval: Approval;
  clock: ServerClock;
}

/** What silence comes to and when, and what waiting has cost so far. */
export function Countdown({ record: { request, proposal }, approval, clock }: Props) {
  const now = useServerNow(clock);
  const isSoon = request.expires_at_s - now < SOON_S;
  const until = proposal.valid_until_step;
  return (
    <div role="timer">
      <Text size="sm" c={isSoon ? "red" : undefined} fw={isSoon ? 600 : undefined}>
        {silenceInWords(request, now)}
        {typeof until === "number" ? ` It also expires after step ${told(until)}.` : ""}
      </Text>
      <Text size="sm">{costInWords(approval, request, now)}</Text>
    </div>
  );
}
