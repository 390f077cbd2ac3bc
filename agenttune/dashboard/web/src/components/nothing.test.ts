import { describe, expect, it } from "vitest";

import { nothing, type Nothing } from "./nothing";

const ALL: Nothing[] = ["measured", "layers", "weights", "dataset", "values", "asked", "decided", "checkpoints", "told"];

describe("where there is nothing to show", () => {
  it.each(ALL)("promises %s only while the run may bring it", (what) => {
    for (const status of ["finished", "stopped", "failed", "lost"] as const) {
      expect(nothing(what, status)).not.toMatch(/yet|when training begins|every some steps/);
    }
    for (const status of ["starting", "running", "paused", undefined] as const) {
      expect(nothing(what, status)).toMatch(/yet|when training begins/);
    }
  });
});
