import { expect, it } from "vitest";

import { shown } from "../testing/shown";
import { Cursor } from "./cursor";
import { Readout } from "./Readout";

it("tells the newest value as it is: also one that is no number, of a line that ends before another", () => {
  const lines = [
    { label: "loss", color: "#000" },
    { label: "eval", color: "#111" },
  ];
  const values = [
    [3, 2, null],
    [1, 0.5, undefined],
  ];
  const { container } = shown(<Readout lines={lines} values={values} cursor={new Cursor()} xFormat={String} />);
  expect(container.textContent).toContain("lossno number");
  expect(container.textContent).toContain("eval0.5");
});

it("does not call a value that a log scale has no place for no number", () => {
  const plot = <Readout lines={[{ label: "rate", color: "#000" }]} values={[[3, null]]} cursor={new Cursor()} xFormat={String} log />;
  expect(shown(plot).container.textContent).toContain("ratenone above 0");
});

it("says what moment the values are of, where that is not now", () => {
  const plot = <Readout lines={[{ label: "rate", color: "#000" }]} values={[[3, 0]]} cursor={new Cursor()} xFormat={String} restsAt="the end, step 9" />;
  expect(shown(plot).container.textContent).toContain("rate0at the end, step 9");
});

it("of many lines tells first those that the run stands on", () => {
  const lines = ["main", "now", ...Array.from({ length: 9 }, (_, i) => `left-${i}`)].map((label, i) => ({ label, color: "#000", dashed: i > 1 }));
  const { container } = shown(<Readout lines={lines} values={lines.map((_, i) => [i])} cursor={new Cursor()} xFormat={String} />);
  expect(container.textContent).toContain("main0now1left-68left-79left-8106 more lines");
});
