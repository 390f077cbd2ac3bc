import { expect, it } from "vitest";

import type { Event } from "../../api/schema";
import { entryInWords } from "./words";

const said = (body: Event["body"]) => entryInWords(body);

it("tells an entry in one line", () => {
  expect(said({ kind: "evaluated", metrics: { eval_loss: 1.23456, eval_acc: "NaN" }, texts: {}, command_id: null })).toBe("eval_loss 1.235, eval_acc NaN");
  expect(said({ kind: "status_changed", status: "failed", reason: "out of memory" })).toBe("failed: out of memory");
  expect(said({ kind: "checkpoint_deleted", checkpoint_id: "c", reason: "disk cap" })).toBe("c: disk cap");
});

it("tells of a kind that this page does not know, as of a newer version's log", () => {
  expect(said({ kind: "from_the_future", answer: 42 } as unknown as Event["body"])).toBe('{"answer":42}');
});
