import { SimpleGrid, Stack, Text } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { useMemo, useState } from "react";

import { Fault } from "../../components/Fault";
import { Loaded } from "../../components/Loaded";
import type { RunPageProps } from "../../routes";
import { useUrlRange, useUrlState } from "../../urlState";
import { EntryList } from "./EntryList";
import { EntryPanel } from "./EntryPanel";
import { ExportButtons } from "./ExportButtons";
import { END, readPage, type LogFilter } from "./filter";
import { Filters } from "./Filters";
import { firstWindow, PAGE, type LogWindow } from "./logWindow";
import { useLogWindow } from "./useLogWindow";

/** Everything ever written to the run's log, filtered; the URL holds the filter and the entry that is looked at. */
export default function LogPage({ runId }: RunPageProps) {
  const [kindsText, setKinds] = useUrlState("kinds");
  const [search, setSearch] = useUrlState("search");
  const [commandId, setCommand] = useUrlState("command");
  const [steps, setSteps] = useUrlRange();
  const [at, setAt] = useUrlState("at");
  const [firstStep, lastStep] = steps ?? [null, null];
  const filter = useMemo(
    (): LogFilter => ({ kinds: kindsText === "" ? [] : kindsText.split(","), search, commandId, steps: firstStep === null ? null : [firstStep, lastStep] }),
    [kindsText, search, commandId, firstStep, lastStep],
  );
  // Where one came in; another entry that is chosen later moves nothing.
  const [anchor] = useState(() => (Number.isSafeInteger(Number(at)) && Number(at) > 0 ? Number(at) : null));
  const start = useQuery({
    queryKey: ["log", runId, filter, anchor],
    queryFn: async () => firstWindow(await readPage(runId, filter, anchor === null ? END : { since: Math.max(anchor - PAGE / 2, 0) }, PAGE), anchor),
    staleTime: Infinity,
    gcTime: 0,
    refetchOnWindowFocus: false,
  });
  return (
    <Stack gap="sm">
      <Filters runId={runId} filter={filter} onKinds={(kinds) => setKinds(kinds.join(","))} onSearch={setSearch} onSteps={setSteps} onCommand={setCommand} />
      <Loaded query={start} height={400}>
        {(first) => <Entries key={start.dataUpdatedAt} runId={runId} filter={filter} first={first} selected={Number(at) || 0} onSelect={(seq) => setAt(String(seq))} onCommand={setCommand} />}
      </Loaded>
      <ExportButtons runId={runId} filter={filter} />
    </Stack>
  );
}

interface EntriesProps {
  runId: string;
  filter: LogFilter;
  first: LogWindow;
  selected: number;
  onSelect: (seq: number) => void;
  onCommand: (commandId: string) => void;
}

function Entries({ runId, filter, first, selected, onSelect, onCommand }: EntriesProps) {
  const { shown, fault, load } = useLogWindow(runId, filter, first);
  const chosen = shown.events.find(({ seq }) => seq === selected);
  return (
    <>
      {fault !== null && <Fault error={fault} onRetry={() => void load("later")} />}
      <SimpleGrid cols={{ base: 1, md: chosen ? 2 : 1 }} spacing="lg">
        {shown.events.length === 0 ? (
          <Text c="dimmed">No entry of the log passes this filter.</Text>
        ) : (
          <EntryList window={shown} selected={selected} onSelect={onSelect} onEarlier={() => void load("earlier")} onLater={() => void load("later")} />
        )}
        {chosen && <EntryPanel runId={runId} event={chosen} onCommand={onCommand} key={chosen.seq} />}
      </SimpleGrid>
    </>
  );
}
