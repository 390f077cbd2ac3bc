import { notifications } from "@mantine/notifications";

import { sentenceOf } from "../../api/client";
import { asCommand, proposed, useSubmit, type AnyCommand } from "../../api/queries";
import { outcomeInWords } from "../../components/command/outcome";
import { toldKind } from "../../components/decision/words";

interface Send {
  /** True once the server has recorded the command, whatever becomes of it; the page tells that. */
  send: (command: AnyCommand, rationale?: string) => Promise<boolean>;
  isSending: boolean;
}

/** Sends a command and says what came of it. */
export function useSend(runId: string): Send {
  const { mutateAsync, isPending } = useSubmit(runId);
  const send = async (command: AnyCommand, rationale = "") => {
    const title = toldKind(command.kind);
    try {
      const record = await mutateAsync(proposed(asCommand(command), rationale));
      const { text, color } = outcomeInWords(record);
      notifications.show({ title, message: text, color, autoClose: color === "red" ? 15_000 : 6000 });
      return true;
    } catch (error) {
      notifications.show({ title: `${title} was not sent`, message: sentenceOf(error), color: "red", autoClose: 15_000 });
      return false;
    }
  };
  return { send, isSending: isPending };
}
