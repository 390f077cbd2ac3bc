import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";

import postcss from "postcss";
import type { Plugin } from "vite";

const CORE = "node_modules/@mantine/core/esm";
/** Whose code uses Mantine's components, besides the page's own. */
const USERS = ["src", "node_modules/@mantine/notifications/esm", "node_modules/@rjsf/mantine/lib/templates"];
const STYLES = /@mantine\/core\/styles\.css$/;
const FROM_CORE = /import\s*\{([^}]*)\}\s*from\s*["']@mantine\/core["']/g;
const INDEX_LINE = /import \{([^}]*)\} from "(\.[^"]+)"/g;
const RELATIVE = /from "(\.[^"]+)"/g;
const OWN_CLASS = /\.(m_[0-9a-f]+)/g;

/**
 * Of Mantine's styles, those of components that are in the page: the whole sheet is as heavy as React.
 *
 * A component names its classes in its module, so what is used follows from who imports what. Only when building: the
 * development server takes all of them.
 */
export function onlyUsedStyles(root: string): Plugin {
  return {
    name: "only-used-mantine-styles",
    apply: "build",
    enforce: "pre",
    transform(code, id) {
      return STYLES.test(id) ? { code: withOnly(usedClasses(root), code), map: null } : null;
    },
  };
}

function withOnly(used: ReadonlySet<string>, css: string): string {
  const sheet = postcss.parse(css);
  sheet.walkRules((rule) => {
    const kept = rule.selectors.filter((selector) => [...selector.matchAll(OWN_CLASS)].every(([, name]) => used.has(name ?? "")));
    if (kept.length === 0) rule.remove();
    else if (kept.length < rule.selectors.length) rule.selectors = kept;
  });
  sheet.walkAtRules((rule) => {
    if (rule.nodes?.length === 0) rule.remove();
  });
  return sheet.toString();
}

/** Classes that modules name which the page reaches. */
function usedClasses(root: string): Set<string> {
  const core = resolve(root, CORE);
  const places = new Map<string, string>();
  for (const [, names = "", path = ""] of readFileSync(join(core, "index.mjs"), "utf8").matchAll(INDEX_LINE)) {
    for (const name of names.split(",")) places.set(name.trim(), join(core, path));
  }
  const seen = new Set<string>();
  const classes = new Set<string>();
  const waiting = [join(core, "core/MantineProvider/MantineProvider.mjs")];
  for (const file of USERS.flatMap((folder) => scripts(resolve(root, folder)))) {
    for (const [, names = ""] of readFileSync(file, "utf8").matchAll(FROM_CORE)) {
      waiting.push(...names.split(",").flatMap((name) => places.get(name.replace("type ", "").trim()) ?? []));
    }
  }
  for (let file = waiting.pop(); file !== undefined; file = waiting.pop()) {
    if (seen.has(file)) continue;
    seen.add(file);
    const code = readFileSync(file, "utf8");
    if (file.endsWith(".module.mjs")) for (const [name] of code.matchAll(/m_[0-9a-f]+/g)) classes.add(name);
    for (const [, path = ""] of code.matchAll(RELATIVE)) waiting.push(join(dirname(file), path));
  }
  return classes;
}

function scripts(folder: string): string[] {
  return readdirSync(folder, { recursive: true, encoding: "utf8" })
    .filter((name) => /\.(tsx?|m?js)$/.test(name) && !/\.(test|d)\.tsx?$/.test(name))
    .map((name) => join(folder, name));
}
