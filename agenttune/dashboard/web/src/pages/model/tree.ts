import type { ModuleInfo } from "../../api/schema";

/** A layer as a row of the tree; `place` and `among` count its siblings that are shown. */
export interface Row {
  layer: ModuleInfo;
  depth: number;
  isOpen: boolean;
  hasChildren: boolean;
  place: number;
  among: number;
}

/** The layers that are shown: what is in open ones, or, while something is searched, what matches and its way there. */
export function rowsOf(root: ModuleInfo, open: ReadonlySet<string>, search: string): Row[] {
  const wanted = search.trim().toLowerCase();
  const found = wanted === "" ? null : matching(root, wanted);
  const rows: Row[] = [];
  const add = (layer: ModuleInfo, depth: number, place: number, among: number) => {
    const children = (layer.children ?? []).filter((child) => found === null || found.has(child));
    const isOpen = children.length > 0 && (found !== null || open.has(layer.name));
    rows.push({ layer, depth, isOpen, hasChildren: children.length > 0, place, among });
    if (isOpen) children.forEach((child, at) => add(child, depth + 1, at + 1, children.length));
  };
  if (found === null || found.has(root)) add(root, 0, 1, 1);
  return rows;
}

/** Layers whose name or type holds a text, with all layers that they are in. */
function matching(root: ModuleInfo, wanted: string): Set<ModuleInfo> {
  const found = new Set<ModuleInfo>();
  const look = (layer: ModuleInfo): boolean => {
    const inside = (layer.children ?? []).map(look).some(Boolean);
    const isFound = inside || `${layer.name} ${layer.type}`.toLowerCase().includes(wanted);
    if (isFound) found.add(layer);
    return isFound;
  };
  look(root);
  return found;
}

export function layerNamed(root: ModuleInfo, name: string): ModuleInfo | null {
  if (root.name === name) return root;
  for (const child of root.children ?? []) {
    // A layer's name begins with that of the layer it is in; only there it is looked for.
    const isWay = child.name === name || name.startsWith(`${child.name}.`);
    const found = isWay ? layerNamed(child, name) : null;
    if (found) return found;
  }
  return null;
}

export function allLayers(root: ModuleInfo): ModuleInfo[] {
  return [root, ...(root.children ?? []).flatMap(allLayers)];
}

/** The layers around a layer, from the model down: those that must be open for it to be seen. */
export function waysTo(name: string): string[] {
  const parts = name.split(".");
  return ["", ...parts.slice(0, -1).map((_, count) => parts.slice(0, count + 1).join("."))];
}

/** What is open at first: the model, and what is in it as long as that stays short. */
export function openAtFirst(root: ModuleInfo): Set<string> {
  const open = new Set([root.name]);
  let rows = 1 + (root.children?.length ?? 0);
  for (const child of root.children ?? []) {
    rows += child.children?.length ?? 0;
    if (rows > ROWS_AT_FIRST) break;
    open.add(child.name);
  }
  return open;
}

const ROWS_AT_FIRST = 40;

export type Move = "up" | "down" | "first" | "last" | "in" | "out";

const KEYS: Partial<Record<string, Move>> = {
  ArrowUp: "up",
  ArrowDown: "down",
  Home: "first",
  End: "last",
  ArrowRight: "in",
  ArrowLeft: "out",
};

export function moveOf(key: string): Move | null {
  return KEYS[key] ?? null;
}

/** Where a key leads in a tree, as the ARIA practices have it: to another row, or the row opens or closes. */
export function moved(rows: readonly Row[], at: number, move: Move): { to: number; toggle: boolean } {
  const row = rows[at];
  const stay = { to: at, toggle: false };
  if (row === undefined) return { to: 0, toggle: false };
  switch (move) {
    case "up":
      return { to: Math.max(at - 1, 0), toggle: false };
    case "down":
      return { to: Math.min(at + 1, rows.length - 1), toggle: false };
    case "first":
      return { to: 0, toggle: false };
    case "last":
      return { to: rows.length - 1, toggle: false };
    case "in":
      if (!row.hasChildren) return stay;
      return row.isOpen ? { to: at + 1, toggle: false } : { to: at, toggle: true };
    case "out": {
      if (row.isOpen) return { to: at, toggle: true };
      const parent = rows.slice(0, at).findLastIndex(({ depth }) => depth < row.depth);
      return parent < 0 ? stay : { to: parent, toggle: false };
    }
  }
}

/** Whether a layer is trained: all of it, some, nothing, or it has no parameters. */
export function trainedOf({ parameters, trainable }: ModuleInfo): "trained" | "partly" | "frozen" | "" {
  if (parameters === 0) return "";
  if (trainable === 0) return "frozen";
  return trainable === parameters ? "trained" : "partly";
}

/** A layer's own part of its name. */
export function lastPart(layer: ModuleInfo): string {
  return layer.name === "" ? layer.type : (layer.name.split(".").at(-1) ?? layer.name);
}
