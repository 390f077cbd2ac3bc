import { useHotkeys } from "@mantine/hooks";
import { notifications } from "@mantine/notifications";
import { useRef, useState } from "react";

import type { CommandSchema, RunInfo } from "../../api/schema";
import { useMe, whyNot } from "../../api/session";
import { Loaded } from "../../components/Loaded";
import { isLive } from "../../components/RunStatus";
import { useFormHints } from "../controls/hints";
import { ApprovalCard } from "./ApprovalCard";
import { EditPreview } from "./EditPreview";
import { decidedInWords, type Waiting } from "./facts";
import { previewEdit, useApproval } from "./reads";
import { useDecide, type Given } from "./useDecide";

interface Props {
  runId: string;
  record: Waiting;
  commands: readonly CommandSchema[];
  info: RunInfo;
  /** Whether keys mean this one. */
  isFirst: boolean;
}

const RISKY = new Set(["disrupt", "danger"]);

/** A request of the queue; the oldest obeys the keys. */
export function RequestItem({ runId, record, commands, info, isFirst }: Props) {
  const [isEditing, setEditing] = useState(false);
  const hints = useFormHints(runId);
  const me = useMe();
  const id = record.proposal.command_id ?? "";
  const approval = useApproval(runId, id);
  const deciding = useDecide(runId, id, record.request.digest);
  const reason = useRef<HTMLTextAreaElement>(null);
  const approve = useRef<HTMLButtonElement>(null);
  const refused = whyNot(me, "mayDecide") || (isLive(info.status) ? "" : `The run is ${info.status}: what was asked for comes too late.`);
  const command = commands.find(({ kind }) => kind === record.proposal.command.kind);
  const decide = (given: Given) =>
    deciding.mutate(given, {
      onSuccess: (decided) => notifications.show({ message: decidedInWords(decided), color: "blue" }),
    });
  const keys = isFirst && refused === "";
  useHotkeys(
    keys
      ? [
          // What cannot simply be undone takes a second key: Enter on the button.
          ["a", () => (RISKY.has(command?.risk ?? "") ? approve.current?.focus() : decide({ verdict: "approve", reason: reason.current?.value ?? "" }))],
          ["e", () => setEditing(true)],
          ["r", () => reason.current?.focus()],
        ]
      : [],
  );
  return (
    <Loaded query={approval} height={400}>
      {(known) => (
        <ApprovalCard
          record={record}
          approval={known}
          clock={{ nowS: known.now_s, atMs: approval.dataUpdatedAt }}
          command={command}
          commands={commands}
          run={info}
          hints={hints}
          whyNot={refused}
          isEditing={isEditing}
          onEditing={setEditing}
          onDecide={decide}
          isDeciding={deciding.isPending}
          error={deciding.error}
          preview={(given) => (
            <EditPreview
              name={["run", runId, "guardrails", "edit", id]}
              command={{ kind: record.proposal.command.kind, ...given }}
              ask={(edited) => previewEdit(runId, id, edited)}
            />
          )}
          hasKeys={keys}
          reasonRef={reason}
          approveRef={approve}
        />
      )}
    </Loaded>
  );
}
