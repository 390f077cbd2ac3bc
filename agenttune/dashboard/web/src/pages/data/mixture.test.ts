import { describe, expect, it } from "vitest";

import { asWeights, rounded, shareOf, shifted, sumOf, type Weights } from "./mixture";

/** The same numbers at each run, so that a failure can be looked at. */
function numbersFrom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state * 1_103_515_245 + 12_345) % 2_147_483_648;
    return state / 2_147_483_648;
  };
}

function made(next: () => number): Weights {
  const count = 2 + Math.floor(next() * 6);
  const weights = Object.fromEntries(Array.from({ length: count }, (_, at) => [`s${at}`, next() < 0.2 ? 0 : next() * 10 ** (6 * next() - 3)]));
  return sumOf(weights) > 0 ? weights : { ...weights, s0: 1 };
}

describe("shifted", () => {
  it("keeps the sum, loses no source and goes below zero nowhere, whatever is moved where", () => {
    const next = numbersFrom(7);
    for (let at = 0; at < 2000; at += 1) {
      const weights = made(next);
      const names = Object.keys(weights);
      const name = names[Math.floor(next() * names.length)] ?? "s0";
      const held = new Set(names.filter((other) => other !== name && next() < 0.3));
      const moved = shifted(weights, name, (next() * 1.4 - 0.2) * sumOf(weights), held);
      expect(Object.keys(moved)).toEqual(names);
      expect(sumOf(moved) / sumOf(weights)).toBeCloseTo(1, 9);
      expect(Math.min(...Object.values(moved))).toBeGreaterThanOrEqual(0);
      for (const other of held) expect(moved[other]).toBe(weights[other]);
    }
  });

  it("gives what is asked for where the others can make room, and they keep their ratio", () => {
    const moved = shifted({ wiki: 0.5, code: 0.3, sums: 0.2 }, "wiki", 0.75);
    expect(moved.wiki).toBe(0.75);
    expect((moved.code ?? 0) / (moved.sums ?? 1)).toBeCloseTo(1.5);
  });

  it("gives equal parts to others that have nothing", () => {
    expect(shifted({ a: 1, b: 0, c: 0 }, "a", 0.5)).toEqual({ a: 0.5, b: 0.25, c: 0.25 });
  });

  it("moves nothing while all others are held", () => {
    expect(shifted({ a: 1, b: 2 }, "a", 0, new Set(["b"]))).toEqual({ a: 1, b: 2 });
  });

  it("takes a source's name as a name, whatever it is", () => {
    expect(shifted({ "<img>": 1, constructor: 1 }, "constructor", 2)).toEqual({ "<img>": 0, constructor: 2 });
  });
});

it("tells weights from other parameters", () => {
  expect(asWeights({ a: 1, b: 0 })).toEqual({ a: 1, b: 0 });
  for (const other of [{ a: 1 }, { a: 1, b: "x" }, { a: 1, b: -1 }, { a: 0, b: 0 }, [1, 2], 3, null]) expect(asWeights(other)).toBeNull();
});

it("sends few digits", () => {
  expect(rounded({ a: 1 / 3, b: 2 / 3 })).toEqual({ a: 0.3333, b: 0.6667 });
  expect(shareOf({ a: 1, b: 3 }, "b")).toBe(0.75);
});
