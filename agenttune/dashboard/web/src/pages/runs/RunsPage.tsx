import { Button, Group, Stack, Text, Title } from "@mantine/core";
import { useCallback, useState } from "react";
import { Link } from "wouter";

import type { RunOverview } from "../../api/schema";
import { Loaded } from "../../components/Loaded";
import { told } from "../../components/numbers";
import { useUrlList, useUrlState } from "../../urlState";
import { RunsFilter } from "./RunsFilter";
import { RunsTable } from "./RunsTable";
import { TagsDialog } from "./TagsDialog";
import { pageOf, useOverview } from "./useOverview";
import { useWaitingTitle } from "./useWaitingTitle";

/** All runs of the server: which go on, how they stand, and which wait for somebody. */
export default function RunsPage() {
  useWaitingTitle();
  const [search, setSearch] = useUrlState("q");
  const [statuses, setStatuses] = useUrlList("state");
  const [tags, setTags] = useUrlList("tag");
  const [chosen, setChosen] = useUrlList("chosen");
  const [[first, last], setSeen] = useState<readonly [number, number]>([0, 0]);
  const [tagged, setTagged] = useState<RunOverview | null>(null);
  // The page is told of other pages of the list only: it would else be drawn anew for each row that comes into sight.
  const onSeen = useCallback((from: number, to: number) => setSeen((seen) => (pageOf(seen[0]) === pageOf(from) && pageOf(seen[1]) === pageOf(to) ? seen : [from, to])), []);
  const filter = { search, statuses: statuses as RunOverview["status"][], tags };
  const { head, row } = useOverview(filter, first, last);
  const choose = useCallback(
    (runId: string, isChosen: boolean) => setChosen(isChosen ? [...chosen, runId] : chosen.filter((one) => one !== runId)),
    [chosen, setChosen],
  );
  return (
    <Stack gap="sm">
      <Group justify="space-between" mih={36}>
        <Title order={1} size="h3">
          Runs{" "}
          <Text span c="dimmed" size="sm" fw={400}>
            {head.data && told(head.data.total)}
          </Text>
        </Title>
        {chosen.length > 0 && (
          <Group gap="xs">
            <Button variant="subtle" size="sm" onClick={() => setChosen([])}>
              Choose none
            </Button>
            <Button component={Link} size="sm" href={`/compare?runs=${chosen.map(encodeURIComponent).join(",")}`}>
              {chosen.length === 1 ? "Look at its curves" : `Compare ${chosen.length} runs`}
            </Button>
          </Group>
        )}
      </Group>
      <RunsFilter {...{ search, statuses, tags }} onSearch={setSearch} onStatuses={setStatuses} onTags={setTags} known={head.data} />
      <Loaded query={head} height={300}>
        {(found) =>
          found.total > 0 ? (
            <RunsTable total={found.total} row={row} chosen={chosen} onChoose={choose} onTag={setTagged} onSeen={onSeen} />
          ) : (
            <Empty isFiltered={search !== "" || statuses.length > 0 || tags.length > 0} />
          )
        }
      </Loaded>
      <TagsDialog run={tagged} known={Object.keys(head.data?.tags ?? {})} onClose={() => setTagged(null)} />
    </Stack>
  );
}

function Empty({ isFiltered }: { isFiltered: boolean }) {
  if (isFiltered) return <Text c="dimmed">No run fits these filters.</Text>;
  return (
    <Text c="dimmed">
      There is no run yet. Start one with <code>agenttune run</code>, or see one replayed with <code>agenttune demo</code>.
    </Text>
  );
}
