import type { Series } from "../../api/schema";

const LOSSES = ["step_loss", "loss", "train_loss", "train/loss", "training_loss"];
const RATES = ["lr", "learning_rate"];

/** The metrics that the overview draws, by the names that this run has for them. */
export interface OverviewMetrics {
  goal: string | null;
  loss: string | null;
  rate: string | null;
}

export function overviewMetrics({ series }: Series, goalMetric: string): OverviewMetrics {
  const names = new Set(series.map(({ name }) => name));
  const there = (wanted: readonly string[]) => wanted.find((name) => names.has(name)) ?? null;
  const goal = there([goalMetric, `eval_${goalMetric}`]);
  const loss = there(LOSSES);
  return { goal, loss: loss === goal ? null : loss, rate: there(RATES) };
}
