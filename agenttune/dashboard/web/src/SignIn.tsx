import { Alert, Button, Group, Modal, Stack, Text, TextInput, Title } from "@mantine/core";
import { useMutation, useQueryClient } from "@tanstack/react-query";
import { useState } from "react";

import { answerOf, sentenceOf, server } from "./api/client";
import { useMe } from "./api/session";

/** For who is nobody to this server: how to get in, and a field for who has a token. */
export function SignIn() {
  const [token, setToken] = useState("");
  const queries = useQueryClient();
  const sending = useMutation({
    mutationFn: () => answerOf(server.POST("/api/v1/session", { body: { token: token.trim() } })),
    onSuccess: () => queries.invalidateQueries(),
    onSettled: () => setToken(""),
  });
  return (
    <Stack maw={560}>
      <Title order={2}>Sign in</Title>
      <Text>
        What you may do here depends on who you are. Open the link that <code>agenttune run</code> or{" "}
        <code>agenttune serve</code> has printed; it counts once, and <code>agenttune open</code> makes a new one.
      </Text>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          sending.mutate();
        }}
      >
        <Group align="end">
          <TextInput
            type="password"
            label="Or with a token"
            flex={1}
            miw={200}
            autoComplete="off"
            value={token}
            onChange={(event) => setToken(event.currentTarget.value)}
          />
          <Button type="submit" loading={sending.isPending} disabled={!token.trim()}>
            Sign in
          </Button>
        </Group>
      </form>
      {sending.error && (
        <Alert color="red" variant="light" role="alert">
          {sentenceOf(sending.error)}
        </Alert>
      )}
    </Stack>
  );
}

/** Who looks at the page; a way out for who has signed in, and a way in for who has not. */
export function Who() {
  const me = useMe();
  const queries = useQueryClient();
  const leaving = useMutation({
    mutationFn: () => answerOf(server.DELETE("/api/v1/session")),
    onSettled: () => queries.invalidateQueries(),
  });
  const [isAsking, setAsking] = useState(false);
  if (!me.isKnown) return null;
  const named = me.name ? `${me.name}, ${me.role}` : me.role;
  return (
    <>
      <Text size="sm" c="dimmed" truncate maw={200} title={`You look at this as ${named}`}>
        {named}
      </Text>
      {!me.isSignedIn && (
        <Button size="compact-sm" variant="subtle" onClick={() => setAsking(true)}>
          Sign in
        </Button>
      )}
      <Modal opened={isAsking && !me.isSignedIn} onClose={() => setAsking(false)} withCloseButton closeButtonProps={{ "aria-label": "Close" }} size="lg">
        <SignIn />
      </Modal>
      {me.isSignedIn && (
        <Button size="compact-sm" variant="subtle" color="gray" loading={leaving.isPending} onClick={() => leaving.mutate()}>
          Sign out
        </Button>
      )}
    </>
  );
}
