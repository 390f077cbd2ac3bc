import { Alert, Anchor, Container, Stack, Text, Title } from "@mantine/core";
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { useEffect, useState } from "react";

import { sentenceOf, ServerError } from "../api/client";
import type { CommandRecord, LinkedRequest } from "../api/schema";
import { Name } from "../components/Name";
import { ApprovalCard } from "../pages/approvals/ApprovalCard";
import { EditPreview } from "../pages/approvals/EditPreview";
import { decidedInWords, isWaiting } from "../pages/approvals/facts";
import { boundsFrom } from "../pages/controls/hints";
import type { Link } from "./linkedRequest";

const AGAIN_MS = 4000;
const KEY = ["link"];

/** The page behind a signed link: one request, with the same card as in the run's queue. */
export function LinkPage({ link }: { link: Link }) {
  const client = useQueryClient();
  const deciding = useMutation({ mutationFn: link.decide, onError: () => client.invalidateQueries({ queryKey: KEY }) });
  const isDecided = deciding.data !== undefined;
  const query = useQuery({
    queryKey: KEY,
    queryFn: link.read,
    enabled: !isDecided,
    // Somebody else may decide meanwhile. What the server says of that is final.
    refetchInterval: ({ state: { error } }) => (isFinal(error) ? false : AGAIN_MS),
  });
  const title = deciding.data ? "Decided" : isFinal(query.error) ? "Nothing to decide" : "A decision waits";
  useEffect(() => {
    document.title = `${title} – agenttune`;
  }, [title]);
  return (
    <Container size="sm" p="sm" component="main">
      <Stack gap="sm">
        {query.data && (
          <Title order={1} size="h4" style={{ overflow: "hidden" }}>
            Run <Name text={query.data.run.name || query.data.run.run_id} />
          </Title>
        )}
        {deciding.data ? (
          <Outcome record={deciding.data} />
        ) : isFinal(query.error) ? (
          <Message title="Nothing can be decided here" text={sentenceOf(query.error)} />
        ) : query.data ? (
          <Request link={link} told={query.data} atMs={query.dataUpdatedAt} away={query.error} deciding={deciding} />
        ) : query.error ? (
          <Message title="The request could not be loaded" text={`${sentenceOf(query.error)} This page asks again by itself.`} />
        ) : (
          <Text>The request is being loaded.</Text>
        )}
      </Stack>
    </Container>
  );
}

interface RequestProps {
  link: Link;
  told: LinkedRequest;
  atMs: number;
  away: unknown;
  deciding: { mutate: (given: Parameters<Link["decide"]>[0]) => void; isPending: boolean; error: unknown };
}

function Request({ link, told, atMs, away, deciding }: RequestProps) {
  const [isEditing, setEditing] = useState(false);
  const { approval, run, command, commands, bounds, knobs } = told;
  const { record } = approval;
  if (!isWaiting(record)) return <Outcome record={record} />;
  return (
    <>
      <ApprovalCard
        record={record}
        approval={approval}
        clock={{ nowS: approval.now_s, atMs }}
        command={command}
        commands={commands}
        run={run}
        hints={{ bounds: boundsFrom(bounds, knobs) }}
        whyNot={away ? `${sentenceOf(away)} What stands here is of before.` : ""}
        isEditing={isEditing}
        onEditing={setEditing}
        onDecide={deciding.mutate}
        isDeciding={deciding.isPending}
        error={deciding.error}
        preview={(given) => <EditPreview name={KEY} command={{ kind: command.kind, ...given }} ask={link.preview} />}
        isAlone
      />
      <Text size="sm" c="dimmed">
        This link works once, until {new Date(told.ends_at_s * 1000).toLocaleString()}. Whoever holds it may decide.{" "}
        <Anchor href="?plain" inherit underline="always">
          The same without scripts
        </Anchor>
      </Text>
    </>
  );
}

/** What came of a decision. */
function Outcome({ record }: { record: CommandRecord }) {
  const { state, verdict } = record;
  const next = state === "queued" ? " It goes to the trainer now." : verdict?.decision === "rejected" ? " Whoever asked is told so." : "";
  return <Message title={TITLES[state] ?? "Not done"} text={`${decidedInWords(record)}${next}`} />;
}

const TITLES: Partial<Record<CommandRecord["state"], string>> = { queued: "Approved", rejected: "Rejected" };

function Message({ title, text }: { title: string; text: string }) {
  return (
    <Alert role="status" title={title} style={{ overflowWrap: "anywhere" }}>
      <bdi>{text}</bdi>
    </Alert>
  );
}

/** Whether an answer of the server leaves nothing to wait for. */
function isFinal(error: unknown): boolean {
  return error instanceof ServerError && error.status < 500;
}
