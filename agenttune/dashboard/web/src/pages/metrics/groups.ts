/** Metrics that belong together, by the beginning of their names. */
export interface Group {
  prefix: string;
  names: string[];
}

export const OTHER = "other";

/**
 * Metrics by prefix: what stands before a slash, else a first word that several share. The goal's group comes first,
 * what shares nothing last.
 */
export function grouped(names: readonly string[], goal: string): Group[] {
  const words = new Map<string, number>();
  for (const name of new Set(names)) if (!name.includes("/")) words.set(firstWord(name), (words.get(firstWord(name)) ?? 0) + 1);
  const prefixOf = (name: string) => {
    if (name.includes("/")) return name.slice(0, name.indexOf("/"));
    return (words.get(firstWord(name)) ?? 0) > 1 ? firstWord(name) : OTHER;
  };
  const groups = new Map<string, string[]>();
  for (const name of [...new Set(names)].sort(byName)) groups.set(prefixOf(name), [...(groups.get(prefixOf(name)) ?? []), name]);
  const rank = ({ prefix, names: all }: Group) => (all.includes(goal) ? 0 : prefix === OTHER ? 2 : 1);
  return [...groups]
    .map(([prefix, all]) => ({ prefix, names: all.sort((a, b) => Number(b === goal) - Number(a === goal)) }))
    .sort((a, b) => rank(a) - rank(b) || byName(a.prefix, b.prefix));
}

/** Numbers within names by their size: `base_lr_2` before `base_lr_11`. */
const byName = new Intl.Collator("en", { numeric: true }).compare;

function firstWord(name: string): string {
  return name.split("_", 1)[0] ?? name;
}
