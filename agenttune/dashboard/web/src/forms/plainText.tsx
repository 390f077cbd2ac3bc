import type { ReactNode } from "react";

/**
 * In place of `markdown-to-jsx`, which rjsf brings for descriptions that ask to be read as Markdown: none of ours does,
 * and text that others wrote is never markup here.
 */
export function Markdown({ children }: { children?: ReactNode }) {
  return children;
}
