import { asNumber, type Metric } from "../components/numbers";

const USUAL_SHARE = 0.95;
/** A value so many times as large as nearly all others would flatten them; a curve that falls from its start does not. */
const FAR = 10;
/** Of what nearly all values reach, so much is shown. */
const ROOM = 2;

/** Where a chart is cut off at the top, and the highest value that it does not show. */
export interface Cut {
  top: number;
  highest: number;
}

/** Where to cut a chart off so that a blow-up does not flatten all the rest; null: nowhere. */
export function cutOf(curves: readonly { mean: readonly Metric[] }[]): Cut | null {
  const values = curves
    .flatMap(({ mean }) => mean.map((value) => asNumber(value)))
    .filter((value): value is number => value !== null && Number.isFinite(value))
    .sort((a, b) => a - b);
  const [lowest, usual, highest] = [values[0], values[Math.floor((values.length - 1) * USUAL_SHARE)], values.at(-1)];
  if (lowest === undefined || usual === undefined || highest === undefined || usual <= 0) return null;
  return highest > FAR * usual ? { top: ROOM * usual, highest } : null;
}
