import { useRun } from "../../api/queries";
import { useMe, whyNotCommand } from "../../api/session";
import { isLive } from "../RunStatus";

/** Why a command is not offered here and now; empty where it is. */
export function useWhyNot(runId: string, kind: string): string {
  const me = useMe();
  const run = useRun(runId).data;
  const refused = whyNotCommand(me, kind);
  if (refused) return refused;
  if (run === undefined) return "The run is not known yet.";
  if (!isLive(run.status)) return `The run is ${run.status}: it takes no more commands.`;
  const able = run.capabilities ?? [];
  if (able.length > 0 && !able.includes(kind)) return `This training loop cannot carry out ${kind}.`;
  return "";
}
