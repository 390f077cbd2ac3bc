import { describe, expect, it } from "vitest";

import type { ModuleInfo } from "../../api/schema";
import { layerNamed, moved, openAtFirst, rowsOf, waysTo } from "./tree";

const layer = (name: string, children: ModuleInfo[] = [], type = "Linear"): ModuleInfo => ({ name, type, parameters: 4, trainable: 4, children });
const MODEL = layer("", [layer("h", [layer("h.0", [layer("h.0.fc")], "Block"), layer("h.1", [], "Block")], "ModuleList"), layer("head")], "Net");
const names = (open: string[], search = "") => rowsOf(MODEL, new Set(open), search).map((row) => row.layer.name);

describe("rowsOf", () => {
  it("shows what is in open layers", () => {
    expect(names([])).toEqual([""]);
    expect(names(["", "h"])).toEqual(["", "h", "h.0", "h.1", "head"]);
  });

  it("shows what a search finds, with the way there, whatever is open", () => {
    expect(names([], "fc")).toEqual(["", "h", "h.0", "h.0.fc"]);
    expect(names([], "block")).toEqual(["", "h", "h.0", "h.1"]);
    expect(names([], "no such layer")).toEqual([]);
  });

  it("tells a screen reader a row's place among its siblings", () => {
    const [, , , second] = rowsOf(MODEL, new Set(["", "h"]), "");
    expect(second).toMatchObject({ depth: 2, place: 2, among: 2 });
  });

  it("is quick with thousands of layers", () => {
    const blocks = Array.from({ length: 5000 }, (_, at) => layer(`h.${at}`, [layer(`h.${at}.fc`)]));
    const large = layer("", [layer("h", blocks)]);
    expect(rowsOf(large, new Set(["", "h", ...blocks.map(({ name }) => name)]), "")).toHaveLength(10_002);
    expect(layerNamed(large, "h.4999.fc")?.name).toBe("h.4999.fc");
  });
});

it("finds a layer by its name, and what must be open for it", () => {
  expect(layerNamed(MODEL, "h.0.fc")?.name).toBe("h.0.fc");
  expect(layerNamed(MODEL, "h.7")).toBeNull();
  expect(waysTo("h.0.fc")).toEqual(["", "h", "h.0"]);
  expect(openAtFirst(MODEL).has("h")).toBe(true);
});

it("goes by the keys that trees have", () => {
  const rows = rowsOf(MODEL, new Set(["", "h"]), "");
  expect(moved(rows, 0, "in")).toEqual({ to: 1, toggle: false });
  expect(moved(rows, 2, "in")).toEqual({ to: 2, toggle: true });
  expect(moved(rows, 3, "out")).toEqual({ to: 1, toggle: false });
  expect(moved(rows, 1, "out")).toEqual({ to: 1, toggle: true });
  expect(moved(rows, 4, "down")).toEqual({ to: 4, toggle: false });
  expect(moved(rows, 4, "first")).toEqual({ to: 0, toggle: false });
});
