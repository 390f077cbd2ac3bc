import { notifications } from "@mantine/notifications";
import { useMutation, useQueryClient } from "@tanstack/react-query";

import { answerOf, server, ServerError } from "../../api/client";
import { asCommand, type AnyCommand } from "../../api/queries";
import type { CommandRecord } from "../../api/schema";

/** HTTP status: decided already, or the run has ended. */
const TOO_LATE = 409;
const TOLD_MS = 20_000;

export interface Given {
  verdict: "approve" | "edit" | "reject" | "escalate";
  reason: string;
  /** With `edit`: what is to run instead. */
  command?: AnyCommand;
  /** With `approve`: all further ones of this kind too. */
  always?: boolean;
}

/** Decides on a request, bound by its digest to what was shown. Also after a refusal the queue is read anew. */
export function useDecide(runId: string, commandId: string, digest: string) {
  const client = useQueryClient();
  return useMutation({
    mutationFn: ({ verdict, reason, command, always = false }: Given): Promise<CommandRecord> =>
      answerOf(
        server.POST("/api/v1/runs/{run_id}/approvals/{command_id}", {
          params: { path: { run_id: runId, command_id: commandId } },
          body: { verdict, digest, reason, name: "", always, ...(command ? { command: asCommand(command) } : {}) },
        }),
      ),
    onError: (error) => {
      // The request goes out of the queue with what is said in it; who has answered is told beside it.
      if (error instanceof ServerError && error.status === TOO_LATE) {
        notifications.show({ color: "orange", title: "Your answer came too late", message: error.message, autoClose: TOLD_MS });
      }
    },
    onSettled: () => client.invalidateQueries({ queryKey: ["run", runId] }),
  });
}
