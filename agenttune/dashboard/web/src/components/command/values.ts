import { told } from "../numbers";

const LONGEST = 300;

/** A value of whatever kind as one line of text. */
export function shownValue(value: unknown): string {
  if (value === null || value === undefined) return "–";
  if (typeof value === "number") return told(value);
  const text = typeof value === "string" ? value : (JSON.stringify(value) as string | undefined) ?? "";
  return text.length > LONGEST ? `${text.slice(0, LONGEST)}…` : text;
}

export type Parsed = { value: unknown; problem?: undefined } | { problem: string };

/**
 * What somebody typed, as a value of the kind that stands there now.
 *
 * A number stays a finite number and text stays text; lists and objects are JSON of the same shape.
 */
export function parsedLike(current: unknown, text: string): Parsed {
  if (typeof current === "string") return { value: text };
  if (typeof current === "number") {
    const number = Number(text);
    return text.trim() !== "" && Number.isFinite(number) ? { value: number } : { problem: "A finite number is wanted." };
  }
  if (typeof current === "boolean") {
    return text === "true" || text === "false" ? { value: text === "true" } : { problem: "true or false is wanted." };
  }
  try {
    const value: unknown = JSON.parse(text);
    if (Array.isArray(current) && !Array.isArray(value)) return { problem: "A list is wanted, such as [1, 2]." };
    if (isTable(current) && !isTable(value)) return { problem: 'Names with values are wanted, such as {"a": 1}.' };
    return { value };
  } catch {
    return { problem: 'This is not JSON: text stands in "quotes", a list in [brackets].' };
  }
}

export function isTable(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** How a value is written in a field. */
export function written(value: unknown): string {
  return typeof value === "string" ? value : JSON.stringify(value);
}
