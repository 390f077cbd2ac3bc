import { afterEach, beforeEach, expect, it, vi } from "vitest";

import { tick } from "./plotOptions";
import { Zoom } from "./zoom";

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

function zoomOf(low: number, high: number): Zoom {
  const zoom = new Zoom();
  zoom.setWhole([low, high]);
  return zoom;
}

it("keeps the place under the pointer where it is", () => {
  const zoom = zoomOf(0, 100);
  zoom.by(0.5, 0.2);
  expect(zoom.shown).toEqual([10, 60]);
});

it("shows all again when one has zoomed out of it, and goes on with what comes", () => {
  const zoom = zoomOf(0, 100);
  zoom.set([40, 60]);
  zoom.by(100);
  expect(zoom.range).toBeNull();
  zoom.setWhole([0, 200]);
  expect(zoom.shown).toEqual([0, 200]);
});

it("moves no further than the data, with the same width", () => {
  const zoom = zoomOf(0, 100);
  zoom.set([80, 95]);
  zoom.pan(1);
  expect(zoom.shown).toEqual([85, 100]);
});

it("tells charts once a frame, however often it is moved", () => {
  const zoom = zoomOf(0, 100);
  vi.runAllTimers();
  let told = 0;
  zoom.subscribe(() => (told += 1));
  for (let i = 0; i < 20; i += 1) zoom.by(0.9);
  vi.runAllTimers();
  expect(told).toBe(1);
});

it("tells neighbouring ticks apart", () => {
  expect([1.7693, 1.7694].map((value, _, all) => tick(value, all))).toEqual(["1.7693", "1.7694"]);
  expect([1.75, 2, 2.25].map((value, _, all) => tick(value, all))).toEqual(["1.75", "2", "2.25"]);
  expect([0, 500_000, 1_000_000].map((value, _, all) => tick(value, all))).toEqual(["0", "5e5", "1e6"]);
});
