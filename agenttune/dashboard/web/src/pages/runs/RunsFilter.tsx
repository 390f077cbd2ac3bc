import { Chip, Group, MultiSelect, TextInput } from "@mantine/core";
import { useDebouncedCallback } from "@mantine/hooks";
import { useState } from "react";

import type { RunsOverview } from "../../api/schema";

const SETTLE_MS = 250;

interface Props {
  search: string;
  onSearch: (search: string) => void;
  statuses: string[];
  onStatuses: (statuses: string[]) => void;
  tags: string[];
  onTags: (tags: string[]) => void;
  known: RunsOverview | undefined;
}

/** What of the list is shown. */
export function RunsFilter({ search, onSearch, statuses, onStatuses, tags, onTags, known }: Props) {
  const [typed, setTyped] = useState(search);
  const settle = useDebouncedCallback(onSearch, SETTLE_MS);
  const there = Object.entries(known?.statuses ?? {});
  const allTags = [...new Set([...Object.keys(known?.tags ?? {}), ...tags])].sort();
  return (
    <Group gap="sm" align="center">
      <TextInput
        type="search"
        aria-label="Search runs by name, id or tag"
        placeholder="Search name, id or tag"
        value={typed}
        w={{ base: "100%", xs: 240 }}
        onChange={(event) => {
          setTyped(event.currentTarget.value);
          settle(event.currentTarget.value);
        }}
      />
      {allTags.length > 0 && (
        <MultiSelect
          aria-label="Only runs with these tags"
          placeholder={tags.length > 0 ? "" : "Tags"}
          data={allTags}
          value={tags}
          onChange={onTags}
          searchable
          clearable
          w={{ base: "100%", xs: 220 }}
        />
      )}
      {there.length > 1 && (
        <Chip.Group multiple value={statuses} onChange={onStatuses}>
          <Group gap={6} role="group" aria-label="Only runs in these states">
            {there.map(([status, count]) => (
              <Chip key={status} value={status} size="sm" variant="outline">
                {status} {count}
              </Chip>
            ))}
          </Group>
        </Chip.Group>
      )}
    </Group>
  );
}
