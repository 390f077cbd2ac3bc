import css from "./Name.module.css";

const LONGEST = 200;

/**
 * A name that somebody else chose: of a run, a metric, a layer. Shown as text, in one line unless it
 * `wraps`, shortened, and kept from turning around the text beside it (right-to-left marks).
 */
export function Name({ text, mono = false, wraps = false, className = "" }: { text: string; mono?: boolean; wraps?: boolean; className?: string }) {
  const shown = text.length > LONGEST ? `${text.slice(0, LONGEST)}…` : text;
  return (
    <bdi className={`${mono ? css.mono : wraps ? css.wraps : css.within} ${className}`} title={text.slice(0, 2000)}>
      {shown}
    </bdi>
  );
}
