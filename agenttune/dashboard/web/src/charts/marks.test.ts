import { expect, it } from "vitest";

import { grouped, type PlaceMark } from "./marks";

const mark = (at: number): PlaceMark => ({ key: String(at), at, color: "blue", sign: "●", label: `Step ${at}` });

it("puts marks together that would lie on each other, and fewer of them on a wider screen", () => {
  const marks = [mark(100), mark(10), mark(12)];
  expect(grouped(marks, 100, 300).map((group) => group.map(({ at }) => at))).toEqual([[10, 12], [100]]);
  expect(grouped(marks, 100, 3000)).toHaveLength(3);
});
