import type { Checkpoint } from "../../api/schema";
import { asNumber, told } from "../../components/numbers";
import { toldBytes } from "./sizes";

export interface Compared {
  name: string;
  one: string;
  other: string;
  /** How far the second is from the first; empty where that says nothing. */
  difference: string;
}

/** Two checkpoints beside each other; `isLower` says whether less of the goal metric is better. */
export function compared(one: Checkpoint, other: Checkpoint, metric: string, isLower: boolean): Compared[] {
  return [
    { name: metric, one: told(one.metric), other: told(other.metric), difference: judged(one, other, isLower) },
    { name: "step", one: told(one.step), other: told(other.step), difference: signed(one.step, other.step, told) },
    { name: "branch", one: one.branch, other: other.branch, difference: one.branch === other.branch ? "the same" : "" },
    { name: "size", one: toldBytes(one.size_bytes), other: toldBytes(other.size_bytes), difference: signed(one.size_bytes, other.size_bytes, toldBytes) },
    { name: "kept in", one: one.keep_in, other: other.keep_in, difference: "" },
    { name: "saved", one: new Date(one.at_s * 1000).toLocaleString(), other: new Date(other.at_s * 1000).toLocaleString(), difference: "" },
  ];
}

function judged(one: Checkpoint, other: Checkpoint, isLower: boolean): string {
  const [a, b] = [asNumber(one.metric), asNumber(other.metric)];
  if (a === null || b === null || !Number.isFinite(a) || !Number.isFinite(b)) return "";
  if (a === b) return "the same";
  return `${signed(a, b, told)} (${b < a === isLower ? "better" : "worse"})`;
}

function signed(one: number | null, other: number | null, say: (value: number) => string): string {
  if (one === null || other === null) return "";
  if (one === other) return "the same";
  return `${other > one ? "+" : "−"}${say(Math.abs(other - one))}`;
}
