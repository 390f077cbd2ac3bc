import type { CommandRecord, Event, ModuleInfo } from "../../api/schema";
import { asNumber } from "../../components/numbers";
import { isTable } from "../../components/command/values";
import { layerNamed } from "./tree";

/** A quantity over steps, as a chart takes it. */
export interface Course {
  steps: number[];
  values: (number | null)[];
}

/** Root mean square of a layer's sampled weights, and how large a step's update is beside it. */
export function sampledCourse(events: readonly Event[], layer: string, branch: string): { rms: Course; ratio: Course } {
  const rms: Course = { steps: [], values: [] };
  const ratio: Course = { steps: [], values: [] };
  for (const { body, branch: on } of events) {
    if (body.kind !== "weights_sampled" || on !== branch) continue;
    const { step } = body.look;
    for (const [course, found] of [[rms, body.look.rms[layer]], [ratio, body.look.ratios[layer]]] as const) {
      if (found === undefined || step <= (course.steps.at(-1) ?? -1)) continue;
      course.steps.push(step);
      course.values.push(finite(asNumber(found)));
    }
  }
  return { rms, ratio };
}

/** Names of the layers that the trainer samples. */
export function sampledLayers(events: readonly Event[]): string[] {
  const newest = events.findLast(({ body }) => body.kind === "weights_sampled")?.body;
  return newest?.kind === "weights_sampled" ? Object.keys(newest.look.rms) : [];
}

export interface Measured {
  step: number;
  weight: number | string | null;
  grad: number | string | null;
}

/** What was measured of a layer when somebody asked, oldest first. */
export function measuredOf(records: readonly CommandRecord[], layer: string): Measured[] {
  return records.flatMap(({ proposal, ack }) => {
    if (proposal.command.kind !== "read_model" || !ack || !isModule(ack.result)) return [];
    const found = layerNamed(ack.result, layer);
    if (found?.weight_norm === undefined || found.weight_norm === null) return [];
    return [{ step: ack.step, weight: found.weight_norm, grad: found.grad_norm ?? null }];
  });
}

function isModule(value: unknown): value is ModuleInfo {
  return isTable(value) && typeof value.name === "string" && typeof value.type === "string" && typeof value.parameters === "number";
}

function finite(value: number | null): number | null {
  return value !== null && Number.isFinite(value) ? value : null;
}
