import { ActionIcon, Alert, Anchor, Container, Group, Text, Title, useMantineColorScheme } from "@mantine/core";
import { Component, Suspense, type ReactNode } from "react";
import { Link, Route, Switch } from "wouter";

import { useMeQuery } from "./api/session";
import { Fault } from "./components/Fault";
import { PageToCome } from "./components/PageToCome";
import { RunLayout } from "./RunLayout";
import { ComparePage, RunsPage } from "./routes";
import { SignIn, Who } from "./SignIn";

/** The whole page: a head, and below it what the path asks for. */
export function App() {
  return (
    <>
      <header className="head">
        <Group h="100%" justify="space-between" wrap="nowrap">
          <Anchor component={Link} href="/" fw={700} underline="never" c="inherit" aria-label="agenttune: all runs">
            agenttune
          </Anchor>
          <Group gap="xs" wrap="nowrap">
            <Who />
            <SchemeSwitch />
          </Group>
        </Group>
      </header>
      <main className="body">
        <Container size="xl" px={0}>
          <Shown>
            <SignedIn>
              <Suspense fallback={<PageToCome />}>
                <Pages />
              </Suspense>
            </SignedIn>
          </Shown>
        </Container>
      </main>
    </>
  );
}

function Pages() {
  return (
    <Switch>
      <Route path="/" component={RunsPage} />
      <Route path="/compare" component={ComparePage} />
      <Route path="/runs/:runId/:tab?">
        {(params) => <RunLayout runId={decodeURIComponent(params.runId)} tab={params.tab ?? ""} key={params.runId} />}
      </Route>
      <Route>
        <Title order={2}>There is no such page</Title>
        <Text>
          <Anchor component={Link} href="/">
            All runs
          </Anchor>
        </Text>
      </Route>
    </Switch>
  );
}

/** Asks who looks first: without a right to read there is one sentence to show, not ten failed panels. */
function SignedIn({ children }: { children: ReactNode }) {
  const me = useMeQuery();
  if (me.data?.isKnown === false) {
    return <SignIn />;
  }
  return (
    <>
      {me.data?.notice && (
        <Alert color="yellow" mb="sm">
          {me.data.notice}
        </Alert>
      )}
      {children}
    </>
  );
}

function SchemeSwitch() {
  const { setColorScheme, colorScheme } = useMantineColorScheme();
  const next = { auto: "light", light: "dark", dark: "auto" } as const;
  const sign = { auto: "◐", light: "☀", dark: "☾" }[colorScheme];
  return (
    <ActionIcon
      variant="subtle"
      color="gray"
      aria-label={`Colors: ${colorScheme}. Switch to ${next[colorScheme]}`}
      title={`Colors: ${colorScheme}`}
      onClick={() => setColorScheme(next[colorScheme])}
    >
      {sign}
    </ActionIcon>
  );
}

/** A fault of the page itself leaves a sentence and a way on, never a blank page. */
class Shown extends Component<{ children: ReactNode }, { error: unknown }> {
  override state: { error: unknown } = { error: null };

  static getDerivedStateFromError(error: unknown) {
    return { error };
  }

  override render() {
    if (this.state.error === null) return this.props.children;
    return <Fault error={this.state.error} onRetry={() => window.location.reload()} />;
  }
}
