import { expect, test } from "vitest";

import { ServerClock } from "./serverClock";

const NOW = Date.UTC(2026, 10, 28, 12, 0, 0);

/** An answer of a server whose clock is so far ahead, asked for at a moment of the browser's, with 40 ms there and back. */
function answer(clock: ServerClock, aheadMs: number, atMs: number): void {
  const told = new Date(Math.floor((atMs + 20 + aheadMs) / 1000) * 1000);
  clock.note(told.toUTCString(), atMs, atMs + 40);
}

test("clocks that agree are left as they are", () => {
  const clock = new ServerClock();
  for (let i = 0; i < 20; i++) answer(clock, 0, NOW + i * 1370);
  expect(clock.aheadMs).toBe(0);
  expect(clock.nowS(NOW)).toBe(NOW / 1000);
});

test.each([3_600_000, -90_000, 2500])("a browser whose clock is %d ms behind shows the server's time", (aheadMs) => {
  const clock = new ServerClock();
  answer(clock, aheadMs, NOW);
  expect(Math.abs(clock.aheadMs - aheadMs)).toBeLessThan(600);
  for (let i = 0; i < 40; i++) answer(clock, aheadMs, NOW + i * 1370);
  expect(Math.abs(clock.aheadMs - aheadMs)).toBeLessThan(60);
});

test("a clock that was set meanwhile is followed, and what is no time says nothing", () => {
  const clock = new ServerClock();
  for (let i = 0; i < 20; i++) answer(clock, 0, NOW + i * 1370);
  answer(clock, 600_000, NOW + 60_000);
  clock.note(null, NOW, NOW);
  clock.note("yesterday", NOW, NOW);
  expect(Math.abs(clock.aheadMs - 600_000)).toBeLessThan(600);
});
