/** Something that happened at a place of a chart's axis, with a sign that tells it from others without color. */
export interface PlaceMark {
  key: string;
  at: number;
  /** A color of the theme. */
  color: string;
  sign: string;
  label: string;
}

/** Marks nearer to each other than this are one: they would lie on each other. */
const APART_PX = 20;

/**
 * Marks in the order of their places, those that would lie on each other together.
 *
 * @param width Of the axis, in its own unit.
 * @param widthPx The same on the screen; 0: not known yet.
 */
export function grouped(marks: readonly PlaceMark[], width: number, widthPx: number): PlaceMark[][] {
  const apart = widthPx > 0 ? (APART_PX / widthPx) * width : 0;
  const groups: PlaceMark[][] = [];
  for (const mark of [...marks].sort((a, b) => a.at - b.at)) {
    const last = groups.at(-1);
    if (last?.[0] !== undefined && mark.at - last[0].at < apart) last.push(mark);
    else groups.push([mark]);
  }
  return groups;
}
