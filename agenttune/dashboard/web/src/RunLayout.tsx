import { Alert, Anchor, Badge, Code, Group, Stack, Tabs, Text, Title } from "@mantine/core";
import { Suspense } from "react";
import { Link, useLocation } from "wouter";

import { ServerError } from "./api/client";
import { useFollow, type Link as LiveLink } from "./api/live";
import { useRun } from "./api/queries";
import { Fault } from "./components/Fault";
import { Name } from "./components/Name";
import { PageToCome } from "./components/PageToCome";
import { isLive, RunStatus } from "./components/RunStatus";
import { useWaiting } from "./pages/approvals/useWaiting";
import { pathOf, RUN_TABS } from "./routes";

/** What all pages of a run share: its name and state, the tabs, the live connection. */
export function RunLayout({ runId, tab }: { runId: string; tab: string }) {
  const run = useRun(runId);
  const { link } = useFollow(runId);
  const [, go] = useLocation();
  const waiting = useWaiting(runId, run.data?.name ?? runId).length;
  const shown = RUN_TABS.find(({ path }) => path === tab);
  if (run.error instanceof ServerError && run.error.status === 404) {
    return <Missing runId={runId} error={run.error} />;
  }
  return (
    <Stack gap="sm">
      <Group gap="sm" wrap="nowrap" miw={0}>
        <Anchor component={Link} href="/" size="sm">
          Runs
        </Anchor>
        <Title order={1} size="h3" style={{ minWidth: 0, overflow: "hidden" }}>
          <Name text={run.data?.name ?? runId} />
        </Title>
        {run.data && <RunStatus status={run.data.status} />}
        {run.data && isLive(run.data.status) && <LinkBadge link={link} />}
      </Group>
      {run.data?.status_reason && ENDED_BADLY.has(run.data.status) && <Alert color="orange">{run.data.status_reason}</Alert>}
      <Tabs value={tab || "overview"} onChange={(value) => go(pathOf(runId, value === "overview" ? "" : (value ?? "")))}>
        <Tabs.List>
          {RUN_TABS.map(({ path, title }) => (
            <Tabs.Tab
              key={path}
              value={path || "overview"}
              rightSection={path === "approvals" && waiting > 0 ? <Badge size="sm" circle color="orange">{waiting}</Badge> : null}
            >
              {title}
            </Tabs.Tab>
          ))}
        </Tabs.List>
        <Tabs.Panel value={tab || "overview"} pt="md">
          {run.isError && run.data === undefined && <Fault error={run.error} onRetry={() => void run.refetch()} />}
          {run.isError && run.data !== undefined && (
            <Alert color={isLive(run.data.status) ? "orange" : "gray"} mb="sm" role="status">
              {isLive(run.data.status) ? AWAY : OVER} <Code>agenttune open {runId}</Code>
            </Alert>
          )}
          {shown === undefined ? (
            <Text>A run has no page “{tab}”.</Text>
          ) : (
            <Suspense fallback={<PageToCome />}>
              <shown.Page runId={runId} />
            </Suspense>
          )}
        </Tabs.Panel>
      </Tabs>
    </Stack>
  );
}

const ENDED_BADLY: ReadonlySet<string> = new Set(["stopped", "interrupted", "failed", "lost"]);
const OVER = "The run is over, and the server that ran beside it has ended. What was loaded stands here; this starts a server and shows the whole run, as it was, from its file:";
const AWAY = "The server does not answer; the page goes on by itself once it is back. A run's own server ends with its run, and this then shows the run from its file:";

const SAID: Record<LiveLink, { text: string; color: string; title: string }> = {
  connecting: { text: "connecting", color: "gray", title: "The page connects to the server." },
  live: { text: "live", color: "teal", title: "Everything is shown as it happens." },
  "catching up": { text: "catching up", color: "yellow", title: "The page was away and is behind." },
  away: { text: "behind", color: "red", title: "The server does not answer; the page catches up once it is back." },
};

function LinkBadge({ link }: { link: LiveLink }) {
  const { text, color, title } = SAID[link];
  return (
    <Badge color={color} variant="dot" title={title} role="status">
      {text}
    </Badge>
  );
}

function Missing({ runId, error }: { runId: string; error: ServerError }) {
  return (
    <>
      <Title order={2}>This run is not there</Title>
      <Text>
        <Name text={runId} mono /> was deleted, or this server does not know it: {error.message}
      </Text>
      <Anchor component={Link} href="/">
        All runs
      </Anchor>
    </>
  );
}
