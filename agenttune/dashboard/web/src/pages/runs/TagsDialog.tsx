import { Button, Group, Modal, Stack, TagsInput, Text } from "@mantine/core";
import { useMutation, useQueryClient } from "@tanstack/react-query";
import { useState } from "react";

import { answerOf, sentenceOf, server } from "../../api/client";
import { keys } from "../../api/queries";
import type { RunOverview } from "../../api/schema";
import { useMe, whyNot } from "../../api/session";
import { Name } from "../../components/Name";

const MOST_TAGS = 32;

interface Props {
  /** The run whose tags are changed; null: none, and no dialog. */
  run: RunOverview | null;
  /** Tags of other runs, to choose from. */
  known: readonly string[];
  onClose: () => void;
}

/** Words to find a run by, given by hand. */
export function TagsDialog({ run, ...rest }: Props) {
  return (
    <Modal
      opened={run !== null}
      onClose={rest.onClose}
      title={
        <>
          Tags of <Name text={run?.name ?? ""} />
        </>
      }
      closeButtonProps={{ "aria-label": "Close" }}
    >
      {run && <Tags key={run.run_id} run={run} {...rest} />}
    </Modal>
  );
}

function Tags({ run, known, onClose }: Omit<Props, "run"> & { run: RunOverview }) {
  const [tags, setTags] = useState<string[]>(run.tags ?? []);
  const why = whyNot(useMe(), "mayAnnotate");
  const client = useQueryClient();
  const saving = useMutation({
    mutationFn: () =>
      answerOf(
        server.POST("/api/v1/runs/{run_id}/records", {
          params: { path: { run_id: run.run_id } },
          body: { record: { kind: "tags_changed", tags, author: "" } },
        }),
      ),
    onSuccess: onClose,
    onSettled: () => client.invalidateQueries({ queryKey: keys.runs }),
  });
  return (
    <Stack gap="sm" component="form" onSubmit={(event) => { event.preventDefault(); if (why === "") saving.mutate(); }}>
      <TagsInput
        label="Tags"
        description="Enter or a comma ends one; runs are found by them."
        data={[...known]}
        value={tags}
        onChange={setTags}
        maxTags={MOST_TAGS}
        disabled={why !== ""}
        error={saving.isError ? sentenceOf(saving.error) : undefined}
        data-autofocus
      />
      {why && (
        <Text size="sm" c="dimmed">
          {why}
        </Text>
      )}
      <Group justify="flex-end">
        <Button variant="default" onClick={onClose}>
          Cancel
        </Button>
        <Button type="submit" loading={saving.isPending} disabled={why !== ""}>
          Save
        </Button>
      </Group>
    </Stack>
  );
}
