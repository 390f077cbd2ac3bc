/** A number as it stands in the log: non-finite ones are the strings "NaN", "Infinity" and "-Infinity". */
export type Metric = number | string;

export function asNumber(value: Metric | null | undefined): number | null {
  if (value === null || value === undefined) return null;
  return typeof value === "number" ? value : Number(value);
}

const DIGITS = 4;

/** A number as people read it: four digits, exponents only where they are shorter. */
export function told(value: Metric | null | undefined): string {
  const number = asNumber(value);
  if (number === null) return "–";
  if (!Number.isFinite(number)) return String(number);
  if (Number.isInteger(number) && Math.abs(number) < 1e6) return number.toLocaleString("en");
  const size = Math.abs(number);
  if (size >= 1e6 || size < 1e-3) return number.toExponential(DIGITS - 2).replace(/\.?0+e/, "e").replace("e+", "e");
  return String(Number(number.toPrecision(DIGITS)));
}

export function toldUsd(usd: number): string {
  return `$${usd < 0.01 && usd > 0 ? usd.toPrecision(2) : usd.toFixed(2)}`;
}

/** A duration in its two largest units. */
export function toldDuration(seconds: number): string {
  if (!Number.isFinite(seconds) || seconds < 0) return "–";
  const units: [string, number][] = [
    ["d", 86_400],
    ["h", 3600],
    ["min", 60],
    ["s", 1],
  ];
  let left = Math.round(seconds);
  const first = units.findIndex(([, length]) => left >= length);
  if (first < 0) return "0 s";
  const parts: string[] = [];
  for (const [name, length] of units.slice(first, first + 2)) {
    const count = Math.floor(left / length);
    left -= count * length;
    if (count > 0) parts.push(`${count} ${name}`);
  }
  return parts.join(" ");
}
