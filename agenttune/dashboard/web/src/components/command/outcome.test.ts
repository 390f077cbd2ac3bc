import { expect, it } from "vitest";

import type { CommandRecord, Verdict } from "../../api/schema";
import { isRefusal, outcomeInWords, verdictInWords } from "./outcome";

it("tells a refusal in sentences, and what may be typed instead with all its digits", () => {
  const nearest = { final_lr: 0.0000033333333333333337, shape: "linear", end_step: 3182 };
  const verdict = { decision: "rejected", decided_by: "guardrail:bounds", reason: "lr would be 0 by step 4000", nearest_allowed: nearest } as unknown as Verdict;
  expect(verdictInWords(verdict)).toBe(
    "The gate does not let it pass (guardrail:bounds): lr would be 0 by step 4000. Nearest that is allowed: final_lr 3.3333333333333337e-6, shape linear, end_step 3182.",
  );
});

it("does not promise for the trainer, and calls no refusal what is none", () => {
  const approved = { decision: "approved", decided_by: "auto", reason: "" } as unknown as Verdict;
  expect(verdictInWords(approved)).toBe("The gate lets it pass (auto). The trainer checks it once more, and may still refuse it.");
  expect(["approved", "edited", "rejected", "expired", "superseded"].map((decision) => isRefusal({ decision } as Verdict))).toEqual([false, false, true, true, true]);
});

it("tells what was changed and what the trainer adds as two sentences", () => {
  const ack = { outcome: "applied", step: 7, message: "an epoch now has 24 batches", changes: [{ name: "seed", previous: 0, requested: 5, effective: 5 }] };
  expect(outcomeInWords({ state: "applied", ack } as unknown as CommandRecord).text).toBe("Applied at step 7. seed: 0 → 5. an epoch now has 24 batches");
});
