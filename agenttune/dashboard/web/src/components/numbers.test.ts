import { describe, expect, it } from "vitest";

import { asNumber, told, toldDuration } from "./numbers";

describe("told", () => {
  it.each([
    [0.0003, "3e-4"],
    [0.01234567, "0.01235"],
    [1234567, "1.23e6"],
    [42, "42"],
    [1000, "1,000"],
    ["NaN", "NaN"],
    ["-Infinity", "-Infinity"],
    [null, "–"],
  ])("tells %s as %s", (value, text) => expect(told(value)).toBe(text));
});

it("reads the log's words for non-finite numbers", () => {
  expect(asNumber("Infinity")).toBe(Infinity);
  expect(asNumber("NaN")).toBeNaN();
});

it("tells a duration in two units", () => {
  expect(toldDuration(3725)).toBe("1 h 2 min");
  expect(toldDuration(59.6)).toBe("1 min");
  expect(toldDuration(0.2)).toBe("0 s");
});
