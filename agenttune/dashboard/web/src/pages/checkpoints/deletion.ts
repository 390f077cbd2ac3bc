import type { Command } from "../../components/command/CommandDialog";

/** Which checkpoints go, as somebody filled it in; empty fields are no part of the rule. */
export interface Rule {
  keepLast: number | "";
  keepBest: number | "";
  beforeStep: number | "";
  branch: string | null;
}

/** The command of a rule; null while nothing of it is filled in, which would delete everything. */
export function deletionOf({ keepLast, keepBest, beforeStep, branch }: Rule): Command | null {
  const parts = {
    ...(typeof keepLast === "number" ? { keep_last: keepLast } : {}),
    ...(typeof keepBest === "number" ? { keep_best: keepBest } : {}),
    ...(typeof beforeStep === "number" ? { before_step: beforeStep } : {}),
    ...(branch ? { branch } : {}),
  };
  return Object.keys(parts).length === 0 ? null : { kind: "delete_checkpoints", ...parts };
}
