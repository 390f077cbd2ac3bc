import type { BranchStarted, Checkpoint } from "../../api/schema";

/** A place in the graph: where a branch begins, a checkpoint on it, several folded into one, or where training stands. */
export interface Place {
  id: string;
  kind: "start" | "checkpoint" | "fold" | "now";
  branch: string;
  step: number;
  checkpoint: Checkpoint | null;
  /** Of a fold: how many checkpoints it stands for, and the step of the first of them. */
  count: number;
  firstStep: number;
  column: number;
  lane: number;
}

export interface Way {
  id: string;
  from: string;
  to: string;
  /** Whether it goes off to another branch. */
  isReturn: boolean;
}

export interface Lineage {
  places: Place[];
  ways: Way[];
  branches: string[];
  /** How many lanes there are, one below the other. */
  lanes: number;
}

type Unplaced = Omit<Place, "column">;

/** A run of checkpoints that nothing tells apart is one place, if it is at least so long. */
const FOLDED_FROM = 3;

/**
 * Branches as lanes from left to right, in order of steps: a lane's checkpoints follow one another, and a branch goes
 * off the checkpoint that was restored, or, where that is gone, off its parent's last place before.
 *
 * Checkpoints in a row that nobody named, that no branch goes off and that are not the newest are folded into one
 * place, unless it is among those that were opened.
 */
export function lineageOf(branches: readonly BranchStarted[], checkpoints: readonly Checkpoint[], now: { branch: string; step: number }, opened: ReadonlySet<string> = new Set()): Lineage {
  const places: Place[] = [];
  const ways: Way[] = [];
  const restored = new Set(branches.flatMap(({ checkpoint_id: id }) => id ?? []));
  const wanted = (checkpoint: Checkpoint) => isNamed(checkpoint) || restored.has(checkpoint.checkpoint_id);
  branches.forEach(({ name, from_step: fromStep }, lane) => {
    const own = checkpoints.filter(({ branch }) => branch === name).sort((a, b) => (a.step ?? 0) - (b.step ?? 0));
    const plain = { branch: name, checkpoint: null, lane, count: 1, firstStep: 0 };
    const first: Unplaced = { ...plain, id: `start ${name}`, kind: "start", step: fromStep };
    const end: Unplaced[] = name === now.branch ? [{ ...plain, id: "now", kind: "now", step: now.step }] : [];
    const all = [first, ...folded(own, wanted, opened, lane), ...end];
    places.push(...all.map((place) => ({ ...place, column: 0 })));
    all.slice(1).forEach((place, at) => ways.push({ id: `to ${place.id}`, from: all[at]?.id ?? first.id, to: place.id, isReturn: false }));
  });
  setColumns(places);
  setLanes(places);
  for (const branch of branches) {
    const from = originOf(branch, places);
    if (from) ways.push({ id: `off to ${branch.name}`, from: from.id, to: `start ${branch.name}`, isReturn: true });
  }
  return { places, ways, branches: branches.map(({ name }) => name), lanes: Math.max(0, ...places.map(({ lane }) => lane + 1)) };
}

/** Checkpoints of a lane in order of steps, with those in a row that are not wanted in one place. */
function folded(own: readonly Checkpoint[], isWanted: (checkpoint: Checkpoint) => boolean, opened: ReadonlySet<string>, lane: number): Unplaced[] {
  const found: Unplaced[] = [];
  let run: Checkpoint[] = [];
  const close = () => {
    const [first, last] = [run[0], run.at(-1)];
    const id = `fold ${first?.checkpoint_id ?? ""}`;
    if (first === undefined || last === undefined) return;
    if (run.length < FOLDED_FROM || opened.has(id)) found.push(...run.map((one) => placeOf(one, lane)));
    else found.push({ id, kind: "fold", branch: first.branch, step: last.step ?? 0, checkpoint: null, lane, count: run.length, firstStep: first.step ?? 0 });
    run = [];
  };
  for (const [at, checkpoint] of own.entries()) {
    if (!isWanted(checkpoint) && at < own.length - 1) {
      run.push(checkpoint);
      continue;
    }
    close();
    found.push(placeOf(checkpoint, lane));
  }
  return found;
}

function placeOf(checkpoint: Checkpoint, lane: number): Unplaced {
  const step = checkpoint.step ?? 0;
  return { id: placeId(checkpoint.checkpoint_id), kind: "checkpoint", branch: checkpoint.branch, step, checkpoint, lane, count: 1, firstStep: step };
}

/** The part of the graph to begin with: that around where training stands, or else its newest place. */
export function newestOf(places: readonly Place[]): Place | undefined {
  return places.find(({ kind }) => kind === "now") ?? places.reduce<Place | undefined>((most, one) => (most === undefined || one.column > most.column ? one : most), undefined);
}

function placeId(checkpointId: string): string {
  return `checkpoint ${checkpointId}`;
}

function isNamed({ pinned, kept_as: keptAs, tag }: Checkpoint): boolean {
  return pinned || keptAs !== "" || tag !== null;
}

/** Columns in order of steps; a lane's places are one after another, also those of one step. */
function setColumns(places: Place[]): void {
  const nextFree = new Map<number, number>();
  let column = -1;
  let step = -1;
  const goesOff = ({ kind, lane }: Place) => kind === "start" && lane > 0;
  const inOrder = [...places].sort((a, b) => a.step - b.step || Number(goesOff(a)) - Number(goesOff(b)) || a.lane - b.lane);
  for (const place of inOrder) {
    // A branch begins to the right of what it goes off, which has the same step.
    if (place.step > step || goesOff(place)) column = Math.max(column + 1, 0);
    step = place.step;
    place.column = Math.max(column, nextFree.get(place.lane) ?? 0);
    nextFree.set(place.lane, place.column + 1);
    column = Math.max(column, place.column);
  }
}

/** A lane whose branch has come to its end is free for a later one: many branches need few lanes. */
function setLanes(places: Place[]): void {
  const byBranch = new Map<number, Place[]>();
  for (const place of places) byBranch.set(place.lane, [...(byBranch.get(place.lane) ?? []), place]);
  const spans = [...byBranch.values()].map((own) => ({ own, first: Math.min(...own.map(({ column }) => column)), last: Math.max(...own.map(({ column }) => column)) }));
  const takenUntil: number[] = [];
  for (const { own, first, last } of spans.sort((a, b) => a.first - b.first)) {
    const free = takenUntil.findIndex((until) => until < first);
    const lane = free < 0 ? takenUntil.length : free;
    takenUntil[lane] = last;
    for (const place of own) place.lane = lane;
  }
}

function originOf({ parent, from_step: fromStep, checkpoint_id: checkpointId }: BranchStarted, places: readonly Place[]): Place | undefined {
  if (!parent) return undefined;
  const restored = places.find(({ checkpoint }) => checkpoint !== null && checkpoint.checkpoint_id === checkpointId);
  return restored ?? places.filter((place) => place.branch === parent && place.kind !== "now" && place.step <= fromStep).at(-1);
}
