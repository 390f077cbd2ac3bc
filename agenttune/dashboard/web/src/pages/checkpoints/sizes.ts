const UNITS = ["B", "kB", "MB", "GB", "TB"];
const THOUSAND = 1000;

/** A size in bytes as people read it. */
export function toldBytes(bytes: number | null | undefined): string {
  if (bytes === null || bytes === undefined) return "–";
  const unit = bytes < 1 ? 0 : Math.min(Math.floor(Math.log10(bytes) / 3), UNITS.length - 1);
  const value = bytes / THOUSAND ** unit;
  return `${unit === 0 ? value : value.toPrecision(3)} ${UNITS[unit] ?? ""}`;
}
