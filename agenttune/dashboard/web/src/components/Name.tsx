import type { CSSProperties } from "react";

const LONGEST = 200;
/** A name is cut off where its place ends, and never makes the page wider. */
const WITHIN: CSSProperties = { display: "inline-block", maxWidth: "100%", verticalAlign: "bottom", overflow: "hidden", textOverflow: "ellipsis", whiteSpace: "nowrap" };
const MONO: CSSProperties = { ...WITHIN, fontFamily: "var(--mantine-font-family-monospace)" };

/**
 * A name that somebody else chose: of a run, a metric, a layer. Shown as text in one line, shortened, and kept from
 * turning around the text beside it (right-to-left marks).
 */
export function Name({ text, mono = false }: { text: string; mono?: boolean }) {
  const shown = text.length > LONGEST ? `${text.slice(0, LONGEST)}…` : text;
  return (
    <bdi style={mono ? MONO : WITHIN} title={text.slice(0, 2000)}>
      {shown}
    </bdi>
  );
}
