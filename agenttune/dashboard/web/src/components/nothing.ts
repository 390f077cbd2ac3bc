import { useRun } from "../api/queries";
import { isLive } from "./RunStatus";

/** What is said where there is nothing to show: of a run that may still bring something, and of one that is over. */
const SENTENCES = {
  measured: ["Nothing was measured yet: the first values come with the first steps.", "Nothing was measured in this run."],
  layers: ["The trainer has not told of its model's layers yet; it does so when training begins.", "The trainer did not tell of its model's layers."],
  weights: ["The trainer has not looked at the weights yet; it does so every some steps.", "The trainer did not look at the weights."],
  dataset: ["The trainer has not told of its dataset: it does so when training begins, of a dataset that it knows.", "The trainer did not tell of its dataset."],
  values: ["The training loop has not told its values yet.", "The training loop did not tell its values."],
  asked: ["Nobody has asked for anything yet.", "Nobody asked for anything."],
  decided: ["Nothing was decided yet.", "Nothing was decided."],
  checkpoints: ["There is no checkpoint yet.", "There is no checkpoint."],
  told: ["Nothing yet.", "Nothing was told of this run."],
} as const satisfies Record<string, readonly [string, string]>;

export type Nothing = keyof typeof SENTENCES;

/** The sentence for a run whose status is known, or not known yet. */
export function nothing(what: Nothing, status: Parameters<typeof isLive>[0] | undefined): string {
  const [live, over] = SENTENCES[what];
  return status === undefined || isLive(status) ? live : over;
}

/** Of this run: the sentence for what there is none of. */
export function useNothing(runId: string): (what: Nothing) => string {
  const status = useRun(runId).data?.status;
  return (what) => nothing(what, status);
}
