import { Anchor, Badge, Button, Group, Stack, Text } from "@mantine/core";
import { useMemo, useState } from "react";

import type { Event, FindingRead, ModelCalled } from "../../api/schema";
import { whyNot, type Me } from "../../api/session";
import { Words } from "../../components/decision/Part";
import { Name } from "../../components/Name";
import { told, toldUsd } from "../../components/numbers";
import { FindingStory } from "./FindingStory";
import { entriesOf, type Looks } from "./story";

interface Props {
  runId: string;
  events: readonly Event[];
  /** What people said of findings, by the `seq` of the finding. */
  judged: ReadonlyMap<number, FindingRead["judged"]>;
  me: Me;
  onCommand: (commandId: string) => void;
  onTranscript: (seq: number) => void;
}

const SHOWN = 30;

/** What the agent saw, said and asked for, newest first; so much of it at a time that one can look through it. */
export function Timeline({ events, ...rest }: Props) {
  const [most, setMost] = useState(SHOWN);
  const entries = useMemo(() => entriesOf(events), [events]);
  const left = entries.length - most;
  return (
    <>
      <Stack gap={8} component="ol" style={{ listStyle: "none", margin: 0, padding: 0 }}>
        {entries.slice(0, most).map((entry) =>
          entry.kind === "looks" ? (
            <LooksRow key={entry.looks.at(-1)?.seq} entry={entry} {...rest} />
          ) : (
            <Row key={entry.event.seq} step={entry.event.step ?? null} kind={entry.event.body.kind}>
              <Told event={entry.event} {...rest} />
            </Row>
          ),
        )}
      </Stack>
      {left > 0 && (
        <Button mt="sm" size="compact-sm" variant="default" onClick={() => setMost(most + SHOWN)}>
          Show {Math.min(left, SHOWN)} more of {left}
        </Button>
      )}
    </>
  );
}

const TITLES: Partial<Record<Event["body"]["kind"], string>> = {
  decided: "decided",
  found: "saw",
  policy_attached: "came",
  policy_detached: "went",
  policy_requested: "was asked for",
  model_called: "asked a model",
  note_added: "note",
};

function Row({ step, kind, children }: { step: number | null; kind: Event["body"]["kind"]; children: React.ReactNode }) {
  return (
    <Group component="li" gap="sm" align="start" wrap="nowrap" miw={0}>
      <Text size="sm" c="dimmed" w={{ base: 44, sm: 70 }} ta="right" style={{ flex: "none" }}>
        {step === null ? "" : told(step)}
      </Text>
      <Badge variant="light" color={kind === "decided" ? "blue" : "gray"} w={{ base: 84, sm: 120 }} tt="none" style={{ flex: "none" }} title={TITLES[kind]}>
        {TITLES[kind] ?? kind}
      </Badge>
      <div style={{ minWidth: 0, flex: 1, overflowWrap: "anywhere" }}>{children}</div>
    </Group>
  );
}

/** Looks in a row that changed nothing: how many, and on demand what each said. */
function LooksRow({ entry: { looks, calls }, me, onTranscript }: { entry: Looks } & Omit<Props, "events">) {
  const [isOpen, setOpen] = useState(false);
  const [newest, oldest] = [looks[0], looks.at(-1)];
  if (newest === undefined || oldest === undefined) return null;
  const first = oldest.step == null ? "the start" : told(oldest.step);
  const steps = newest.step == null ? "before the first step" : newest === oldest ? `step ${first}` : `steps ${first} to ${told(newest.step)}`;
  const asked = calls.length === 0 ? "" : `, ${calls.length} ${calls.length === 1 ? "call" : "calls"} of a model`;
  return (
    <Row step={newest.step ?? null} kind="decided">
      <Button size="compact-xs" variant="subtle" h="auto" styles={{ label: { whiteSpace: "normal", textAlign: "left" } }} onClick={() => setOpen(!isOpen)} aria-expanded={isOpen}>
        {looks.length === 1 ? "1 look that changed nothing" : `${looks.length} looks that changed nothing`}, {steps}
        {asked}
      </Button>
      {isOpen && (
        <Stack gap={2} mt={4} mah={320} style={{ overflow: "auto" }} tabIndex={0} role="group" aria-label={`Looks at ${steps}`}>
          {looks.map((look) => (
            <Text key={look.seq} size="sm" component="div">
              {look.step == null ? "before the first step" : told(look.step)}: <Words text={look.body.reason || "no reason was given"} />
            </Text>
          ))}
          {calls.map((call) => (
            <Call key={call.seq} call={call.body} seq={call.seq} me={me} onTranscript={onTranscript} />
          ))}
        </Stack>
      )}
    </Row>
  );
}

function Told({ event, runId, judged, me, onCommand, onTranscript }: Omit<Props, "events"> & { event: Event }) {
  const body = event.body;
  switch (body.kind) {
    case "decided":
      return (
        <>
          <Words text={body.reason || body.policy} />
          {body.faults?.map((fault) => (
            <Text key={fault} size="sm" c="red">
              {fault}
            </Text>
          ))}
          <Group gap="sm">
            {body.command_ids?.map((id, index) => (
              <Anchor key={id} component="button" type="button" size="sm" onClick={() => onCommand(id)}>
                {index === 0 ? "What it asked for, and what came of it" : `its command ${index + 1}`}
              </Anchor>
            ))}
          </Group>
        </>
      );
    case "found":
      return <FindingStory runId={runId} me={me} found={{ seq: event.seq, step: event.step ?? body.finding.step, finding: body.finding, judged: judged.get(event.seq) ?? null }} />;
    case "model_called":
      return <Call call={body} seq={event.seq} me={me} onTranscript={onTranscript} />;
    case "policy_attached":
      return <Name text={body.policy} />;
    case "policy_detached":
      return <Words text={`${body.policy}: ${body.reason}`} />;
    case "policy_requested":
      return <Words text={`${body.author || "somebody"} wants ${body.policy ?? "no policy"}`} />;
    case "note_added":
      return <Words text={`${body.author ? `${body.author}: ` : ""}${body.text}`} />;
    default:
      return null;
  }
}

function Call({ call, seq, me, onTranscript }: { call: ModelCalled; seq: number; me: Me; onTranscript: (seq: number) => void }) {
  const cost = call.usd === null || call.usd === undefined ? "" : `, ${toldUsd(call.usd)}`;
  const why = whyNot(me, "maySeeRules");
  return (
    <Text size="sm" component="div">
      <Name text={call.model} /> to {call.purpose}: {told(call.usage?.input_tokens)} tokens in,{" "}
      {told(call.usage?.output_tokens)} out{cost}
      {call.error && `; it failed: ${call.error}`}{" "}
      <Anchor component="button" type="button" size="sm" disabled={why !== ""} title={why} onClick={() => why === "" && onTranscript(seq)}>
        what was said
      </Anchor>
    </Text>
  );
}
