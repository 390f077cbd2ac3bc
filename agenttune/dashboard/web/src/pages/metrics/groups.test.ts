import { expect, it } from "vitest";

import { grouped } from "./groups";

it("has numbers within names by their size", () => {
  const [group] = grouped(["base_lr_11", "base_lr_2", "base_lr", "base_lr_1"], "loss");
  expect(group?.names).toEqual(["base_lr", "base_lr_1", "base_lr_2", "base_lr_11"]);
});

it("groups by what stands before a slash or a shared first word, the goal first", () => {
  const groups = grouped(["train/loss", "step_loss", "step_time_s", "lr", "lr", "eval_loss", "eval_acc"], "eval_loss");
  expect(groups).toEqual([
    { prefix: "eval", names: ["eval_loss", "eval_acc"] },
    { prefix: "step", names: ["step_loss", "step_time_s"] },
    { prefix: "train", names: ["train/loss"] },
    { prefix: "other", names: ["lr"] },
  ]);
});
