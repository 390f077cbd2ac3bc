import { Grid, Stack, Text } from "@mantine/core";
import { useRef, useState } from "react";

import { useCommands, useKnobs, useRun, useSchemas } from "../../api/queries";
import type { KnobState, RunInfo } from "../../api/schema";
import { useMe, whyNot } from "../../api/session";
import { useGuardrails } from "../../api/steering";
import { Loaded } from "../../components/Loaded";
import { useNothing } from "../../components/nothing";
import { Section } from "../../components/Section";
import type { RunPageProps } from "../../routes";
import { useUrlState } from "../../urlState";
import { changeOf, hasGroups } from "./change";
import { ChangeDialog } from "./ChangeDialog";
import { CommandComposer } from "./CommandComposer";
import { CommandHistory } from "./CommandHistory";
import { GuardrailList } from "./GuardrailList";
import { KnobTable } from "./KnobTable";
import { LearningRate } from "./LearningRate";
import { QuickActions } from "./QuickActions";
import { SchedulePanel } from "./SchedulePanel";

const FIRST_KIND = "update_optimizer";

/** Steering by hand: what one wants most first, then every command there is, and what became of those sent. */
export default function ControlsPage({ runId }: RunPageProps) {
  const run = useRun(runId);
  return <Loaded query={run}>{(info) => <Controls runId={runId} info={info} />}</Loaded>;
}

function Controls({ runId, info }: { runId: string; info: RunInfo }) {
  const nothing = useNothing(runId);
  const knobs = useKnobs(runId);
  const schemas = useSchemas();
  const commands = useCommands(runId);
  const me = useMe();
  const guardrails = useGuardrails(runId, me.maySeeRules);
  const hidden = whyNot(me, "maySeeRules");
  const [kind, setKind] = useUrlState("command", FIRST_KIND);
  const [start, setStart] = useState<Record<string, unknown>>({});
  const composer = useRef<HTMLDivElement>(null);
  const compose = (wanted: string, values: Record<string, unknown> = {}) => {
    setKind(wanted);
    setStart(values);
    composer.current?.scrollIntoView({ block: "start" });
    composer.current?.focus({ preventScroll: true });
  };
  const [changing, setChanging] = useState<{ knob: KnobState; group?: number } | null>(null);
  const kinds = schemas.data?.commands ?? [];
  const change = (knob: KnobState, group?: number) => {
    if (changeOf(knob, null, kinds) === null) compose(knob.command);
    else setChanging({ knob, ...(group === undefined ? {} : { group }) });
  };
  const lr = knobs.data?.knobs.find(({ name }) => name === "lr");
  return (
    <Stack gap="md">
      <Section title="Quick actions">
        <Stack gap="md">
          <QuickActions runId={runId} info={info} />
          {lr && <LearningRate runId={runId} lr={lr} />}
        </Stack>
      </Section>
      <Grid gap="md">
        <Grid.Col span={{ base: 12, md: 7 }}>
          <Section title="Optimizer and other values">
            <Loaded query={knobs} empty={{ when: ({ knobs: all }) => all.length === 0, say: nothing("values") }}>
              {({ knobs: all }) => <KnobTable runId={runId} knobs={all} hasGroups={(knob) => hasGroups(knob, kinds)} onChange={change} />}
            </Loaded>
          </Section>
        </Grid.Col>
        <Grid.Col span={{ base: 12, md: 5 }}>
          <Section title="Schedule">
            <SchedulePanel runId={runId} schedule={info.schedule} onPlan={() => compose("update_schedule", { shape: "cosine" })} />
          </Section>
        </Grid.Col>
      </Grid>
      <div ref={composer} tabIndex={-1} style={{ outline: "none", scrollMarginTop: 60 }}>
        <Section title="Any command">
          <Loaded query={schemas}>
            {({ commands: all }) => (
              <CommandComposer
                runId={runId}
                commands={all}
                kind={kind}
                onKind={(wanted) => {
                  setStart({});
                  setKind(wanted);
                }}
                start={start}
              />
            )}
          </Loaded>
        </Section>
      </div>
      <ChangeDialog runId={runId} knob={changing?.knob ?? null} group={changing?.group} commands={kinds} onClose={() => setChanging(null)} />
      <Section title="Guardrails">
        {hidden ? <Text c="dimmed">{hidden}</Text> : <Loaded query={guardrails}>{(found) => <GuardrailList guardrails={found} />}</Loaded>}
      </Section>
      <Section title="Commands so far">
        <Loaded query={commands}>{({ commands: records }) => <CommandHistory runId={runId} records={records} />}</Loaded>
      </Section>
    </Stack>
  );
}
