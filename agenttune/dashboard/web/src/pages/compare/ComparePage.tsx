import { Anchor, Stack, Text, Title } from "@mantine/core";
import { Link } from "wouter";

import { useUrlList } from "../../urlState";
import { Comparison } from "./Comparison";

const MOST = 12;

/** Several runs in one chart. */
export default function ComparePage() {
  const [runs] = useUrlList("runs");
  const shown = [...new Set(runs)].slice(0, MOST);
  return (
    <Stack gap="md">
      <div>
        <Anchor component={Link} href="/" size="sm">
          Runs
        </Anchor>
        <Title order={1} size="h3">
          Compare
        </Title>
      </div>
      {shown.length === 0 ? (
        <Text c="dimmed">No run is chosen: tick some in the list of runs, then compare them.</Text>
      ) : (
        <Comparison runIds={shown} />
      )}
      {runs.length > MOST && <Text size="sm">Only the first {MOST} of the chosen runs are shown.</Text>}
    </Stack>
  );
}
