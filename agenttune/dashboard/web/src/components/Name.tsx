import css from "./Name.module.css";

const LONGEST = 200;

/**
 * A name that somebody else chose: of a run, a metric, a layer. Shown as text in one line, shortened, and kept from
 * turning around the text beside it (right-to-left marks).
 */
export function Name({ text, mono = false, className = "" }: { text: string; mono?: boolean; className?: string }) {
  const shown = text.length > LONGEST ? `${text.slice(0, LONGEST)}…` : text;
  return (
    <bdi className={`${mono ? css.mono : css.within} ${className}`} title={text.slice(0, 2000)}>
      {shown}
    </bdi>
  );
}
