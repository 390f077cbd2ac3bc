import { useCheckpoints, useKnobs } from "../../api/queries";
import type { Guardrails, KnobState } from "../../api/schema";
import { useMe } from "../../api/session";
import { useGuardrails } from "../../api/steering";
import { asNumber } from "../../components/numbers";
import type { Bounds, FormHints } from "../../forms/formSchema";

/** What a run's forms know beside the schemas: the gate's bounds, and names to choose from. */
export function useFormHints(runId: string): FormHints {
  const me = useMe();
  const bounds = useGuardrails(runId, me.maySeeRules).data?.bounds;
  const knobs = useKnobs(runId).data?.knobs ?? [];
  const checkpoints = useCheckpoints(runId).data?.checkpoints ?? [];
  return {
    bounds: boundsFrom(bounds, knobs),
    examples: {
      name: knobs.filter(({ command }) => command === "set_knob").map(({ name }) => name),
      checkpoint_id: checkpoints.map(({ checkpoint_id: id }) => id),
    },
  };
}

/** By knob, the narrower of what the gate allows and what the knob itself takes. */
export function boundsFrom(gate: Guardrails["bounds"] | undefined, knobs: readonly KnobState[]): Bounds {
  const names = new Set([...Object.keys(gate ?? {}), ...knobs.map(({ name }) => name)]);
  const bounds: Record<string, readonly [number | null, number | null]> = {};
  for (const name of names) {
    const [low, high] = gate?.[name] ?? [null, null];
    const knob = knobs.find((one) => one.name === name);
    const lows = [asNumber(low), knob?.minimum ?? null].filter((value) => value !== null);
    const highs = [asNumber(high), knob?.maximum ?? null].filter((value) => value !== null);
    if (lows.length + highs.length === 0) continue;
    bounds[name] = [lows.length ? Math.max(...lows) : null, highs.length ? Math.min(...highs) : null];
  }
  return bounds;
}
