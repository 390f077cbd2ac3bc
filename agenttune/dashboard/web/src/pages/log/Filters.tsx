import { Button, Group, MultiSelect, TextInput } from "@mantine/core";
import { useDebouncedCallback } from "@mantine/hooks";
import { useQuery } from "@tanstack/react-query";
import { useState } from "react";

import { answerOf, server } from "../../api/client";
import { keys } from "../../api/queries";
import { NumberField } from "../../components/NumberField";
import { told } from "../../components/numbers";
import type { LogFilter } from "./filter";
import { kindInWords } from "./words";

interface Props {
  runId: string;
  filter: LogFilter;
  onKinds: (kinds: string[]) => void;
  onSearch: (search: string) => void;
  onSteps: (steps: readonly [number, number] | null) => void;
  onCommand: (commandId: string) => void;
}

const TYPING_MS = 300;
const LAST_STEP = 2 ** 40;

/** What entries are shown: of which kinds, with which text, from which steps. */
export function Filters({ runId, filter, onKinds, onSearch, onSteps, onCommand }: Props) {
  const [typed, setTyped] = useState(filter.search);
  const searchSoon = useDebouncedCallback(onSearch, TYPING_MS);
  const counts = useQuery({
    queryKey: keys.run(runId, "events", "counts"),
    queryFn: () => answerOf(server.GET("/api/v1/runs/{run_id}/event-counts", { params: { path: { run_id: runId } } })),
    staleTime: 10_000,
  });
  const known = { ...Object.fromEntries(filter.kinds.map((kind) => [kind, 0])), ...counts.data?.kinds };
  const [first, last] = filter.steps ?? [null, null];
  const setStep = (value: number | string, which: "first" | "last") => {
    const step = typeof value === "number" ? value : null;
    const next = which === "first" ? [step, last] : [first, step];
    const hasNone = next[0] === null && (next[1] === null || next[1] === LAST_STEP);
    onSteps(hasNone ? null : [next[0] ?? 0, next[1] ?? LAST_STEP]);
  };
  return (
    <Group gap="sm" align="flex-start">
      <MultiSelect
        aria-label="Kinds of entries"
        placeholder={filter.kinds.length === 0 ? "All kinds" : undefined}
        data={Object.entries(known).map(([kind, count]) => ({ value: kind, label: `${kindInWords(kind)} (${told(count)})` }))}
        value={[...filter.kinds]}
        onChange={onKinds}
        clearable
        clearButtonProps={{ "aria-label": "Show all kinds" }}
        searchable
        maw={420}
        miw={200}
        style={{ flex: 2 }}
      />
      <TextInput
        aria-label="Text in the entries"
        placeholder="Text"
        value={typed}
        onChange={(event) => {
          setTyped(event.currentTarget.value);
          searchSoon(event.currentTarget.value);
        }}
        maxLength={200}
        miw={120}
        style={{ flex: 1 }}
      />
      <NumberField aria-label="From step" placeholder="From step" value={first ?? ""} onChange={(value) => setStep(value, "first")} min={0} w={100} />
      <NumberField aria-label="To step" placeholder="To step" value={last === null || last === LAST_STEP ? "" : last} onChange={(value) => setStep(value, "last")} min={0} w={100} />
      {filter.commandId && (
        <Button variant="light" onClick={() => onCommand("")} title="Entries of all commands">
          one command ✕
        </Button>
      )}
    </Group>
  );
}
