import { Alert, Button } from "@mantine/core";

import { sentenceOf } from "../api/client";

/** An error as a sentence in its place, with a way to try again. */
export function Fault({ error, onRetry }: { error: unknown; onRetry?: () => void }) {
  return (
    <Alert color="red" variant="light" role="alert" title="This could not be shown">
      {sentenceOf(error)}
      {onRetry && (
        <Button ml="md" size="compact-sm" variant="default" onClick={onRetry}>
          Try again
        </Button>
      )}
    </Alert>
  );
}
