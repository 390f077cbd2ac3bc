import { expect, it } from "vitest";

import type { Around } from "../../api/schema";
import { drawnAround, withRoom } from "./aroundChart";

it("has room beside a mark at the last step, which is neither a value nor a gap", () => {
  const before = [10, 20].map((step) => ({ step, value: 1 / step }));
  const drawn = withRoom(drawnAround({ before, after: [], undone: [], expected: [] } as unknown as Around), 20);
  expect(drawn.x).toEqual([10, 20, 21]);
  expect(drawn.values).toEqual([[0.1, 0.05, undefined]]);
});
