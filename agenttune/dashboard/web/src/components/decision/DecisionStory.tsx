import { Group, Stack, Text } from "@mantine/core";

import type { CommandDecision, Event } from "../../api/schema";
import { Name } from "../Name";
import { told } from "../numbers";
import { AroundChart } from "./AroundChart";
import { ChangeTable } from "./ChangeTable";
import { EffectBadge } from "./EffectBadge";
import { Part, Words } from "./Part";
import { SeenPart } from "./SeenPart";
import { effectWords, toldValue, whenInWords, withArrows } from "./words";

const MOST_CURVES = 2;

/** A decision told in the order in which it happened, its outcome first. */
export function DecisionStory({ decision }: { decision: CommandDecision }) {
  const { record, intervention, seen, curves = [], events } = decision;
  const { proposal, verdict, ack } = record;
  const effect = intervention.effect;
  // The curve by which the effect is told comes first.
  const byWeight = [...curves].sort((a, b) => Number(b.metric === effect?.metric) - Number(a.metric === effect?.metric));
  return (
    <Stack gap="sm">
      <Text fw={600} className="words">
        {whenInWords(intervention)}
        {withArrows(intervention.summary)}
      </Text>
      {intervention.is_abandoned && (
        <Text size="sm">No longer in force: the run went back to a checkpoint from before this.</Text>
      )}
      <Part title="Why">
        {proposal.rationale ? <Words text={proposal.rationale} /> : <Text size="sm">No reason was given.</Text>}
        {seen.reason && seen.reason !== proposal.rationale && <Words text={seen.reason} />}
      </Part>
      {effect && (
        <Part title="Did it help?">
          <Stack gap={4}>
            <Group gap="xs">
              <EffectBadge effect={effect} />
              {!effect.is_final && (
                <Text size="xs" c="dimmed">
                  so far: it is still being measured
                </Text>
              )}
            </Group>
            <Words text={effectWords(effect)} />
            {ack && byWeight.slice(0, MOST_CURVES).map((around) => <AroundChart key={around.metric} around={around} step={ack.step} />)}
          </Stack>
        </Part>
      )}
      <SeenPart seen={seen} />
      <Part title="Who allowed it">
        {verdict ? (
          <>
            <Text size="sm" component="div">
              {verdict.decision} by <Name text={verdict.decided_by} />
            </Text>
            {verdict.reason && <Words text={verdict.reason} />}
          </>
        ) : (
          <Text size="sm">Nobody has decided yet: see Approvals.</Text>
        )}
      </Part>
      {ack && (
        <Part title="What the trainer did">
          <Text size="sm" component="div">
            {ack.outcome} at step {told(ack.step)}
            {ack.branch ? (
              <>
                {" "}
                on <Name text={ack.branch} />
              </>
            ) : null}
          </Text>
          {ack.message && <Words text={ack.message} />}
          {ack.changes && ack.changes.length > 0 && <ChangeTable changes={ack.changes} />}
        </Part>
      )}
      <ReadBack events={events} confirmed={ack?.confirmed_step} />
      <Probation events={events} />
    </Stack>
  );
}

function ReadBack({ events, confirmed }: { events: readonly Event[]; confirmed: number | null | undefined }) {
  const read = events.findLast((event) => event.body.kind === "read_back");
  if (read?.body.kind !== "read_back") {
    if (typeof confirmed !== "number") return null;
    return (
      <Part title="Did it last?">
        <Text size="sm">Read back after step {told(confirmed)}: it was in use.</Text>
      </Part>
    );
  }
  const { held, expected, found } = read.body;
  return (
    <Part title="Did it last?">
      <Text size="sm" className="words">
        {held ? "Yes: read back" : "No: read back"} at step {told(read.step)}
        {held ? ", it was in use." : `: ${toldValue(found)} where ${toldValue(expected)} was set.`}
      </Text>
    </Part>
  );
}

function Probation({ events }: { events: readonly Event[] }) {
  const settled = events.findLast((event) => event.body.kind === "settled");
  if (settled?.body.kind !== "settled") return null;
  return (
    <Part title="Probation">
      <Text size="sm">
        {settled.body.outcome === "reverted" ? "Taken back" : "Kept"} at step {told(settled.step)}
      </Text>
      <Words text={settled.body.reason} />
    </Part>
  );
}
