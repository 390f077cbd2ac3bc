import { isTable } from "../../components/command/values";

/** Weights of the sources of a mixture, by the source's name. */
export type Weights = Readonly<Record<string, number>>;

/** A parameter's value as weights, if that is what it is: two names or more, each with a number that is not negative. */
export function asWeights(value: unknown): Weights | null {
  if (!isTable(value)) return null;
  const numbers = Object.entries(value);
  const fits = numbers.length >= 2 && numbers.every(([, weight]) => typeof weight === "number" && Number.isFinite(weight) && weight >= 0);
  return fits && sumOf(value as Weights) > 0 ? (value as Weights) : null;
}

export function sumOf(weights: Weights): number {
  return Object.values(weights).reduce((sum, weight) => sum + weight, 0);
}

/** Part of all draws that a source gets. */
export function shareOf(weights: Weights, name: string): number {
  return (weights[name] ?? 0) / sumOf(weights);
}

/**
 * One source gets another weight, and the others make room, so that the sum stays what it was.
 *
 * They keep their ratio to each other; where all of them are 0 they get equal parts. Held ones stay as they are, and
 * the source gets no more than they leave.
 */
export function shifted(weights: Weights, name: string, wanted: number, held: ReadonlySet<string> = new Set()): Weights {
  const sum = sumOf(weights);
  const free = Object.keys(weights).filter((other) => other !== name && !held.has(other));
  if (free.length === 0 || !(name in weights)) return weights;
  const kept = Object.keys(weights).reduce((total, other) => (held.has(other) && other !== name ? total + (weights[other] ?? 0) : total), 0);
  const most = Math.max(sum - kept, 0);
  const value = Math.min(Math.max(wanted, 0), most);
  const before = free.reduce((total, other) => total + (weights[other] ?? 0), 0);
  const left = most - value;
  const parts = free.map((other) => [other, before > 0 ? ((weights[other] ?? 0) / before) * left : left / free.length] as const);
  return { ...weights, [name]: value, ...Object.fromEntries(parts) };
}

const DIGITS = 4;

/** Weights as they are sent: few digits, and a sum that is off by less than one of the last. */
export function rounded(weights: Weights): Weights {
  return Object.fromEntries(Object.entries(weights).map(([name, weight]) => [name, Number(weight.toPrecision(DIGITS))]));
}
