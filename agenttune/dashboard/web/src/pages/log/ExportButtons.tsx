import { Button, Group, Text } from "@mantine/core";
import { useMutation } from "@tanstack/react-query";
import { useState } from "react";

import { sentenceOf } from "../../api/client";
import { told } from "../../components/numbers";
import { exported, save, type Format } from "./exporting";
import type { LogFilter } from "./filter";

/** Saves all entries that pass the filter, not only those at hand. */
export function ExportButtons({ runId, filter }: { runId: string; filter: LogFilter }) {
  const [count, setCount] = useState(0);
  const exporting = useMutation({
    mutationFn: async (format: Format) => save(await exported(runId, filter, format, setCount), `${runId}-log.${format}`),
  });
  return (
    <Group gap="xs">
      {(["jsonl", "csv"] as const).map((format) => (
        <Button key={format} size="compact-sm" variant="default" loading={exporting.isPending} onClick={() => exporting.mutate(format)}>
          Save as {format.toUpperCase()}
        </Button>
      ))}
      <Text size="sm" c={exporting.isError ? "red" : "dimmed"} role="status">
        {exporting.isPending && `${told(count)} entries so far`}
        {exporting.isError && sentenceOf(exporting.error)}
        {exporting.isSuccess && `${told(count)} entries saved`}
      </Text>
    </Group>
  );
}
