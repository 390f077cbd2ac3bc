import type { Event } from "../../api/schema";
import { shownValue } from "../../components/command/values";
import { told, toldUsd } from "../../components/numbers";

type Body = Event["body"];
type Kind = Body["kind"];
type BodyOf<K extends Kind> = Extract<Body, { kind: K }>;

const MOST_METRICS = 6;

function metricsInWords(metrics: Record<string, number | string>): string {
  const all = Object.entries(metrics);
  const shown = all.slice(0, MOST_METRICS).map(([name, value]) => `${name} ${told(value)}`);
  return all.length > MOST_METRICS ? `${shown.join(", ")} and ${all.length - MOST_METRICS} more` : shown.join(", ");
}

function joined(...parts: (string | null | undefined | false)[]): string {
  return parts.filter(Boolean).join(" ").replaceAll(" : ", ": ");
}

/** A command as one line: its kind and its arguments. */
function commandInWords(command: { kind: string }): string {
  const { kind, ...rest } = command;
  const given = Object.entries(rest).filter(([, value]) => value !== null && value !== undefined);
  return joined(kind, given.map(([name, value]) => `${name}=${shownValue(value)}`).join(" "));
}

/** What an entry of the log says, in one line; the whole of it is shown beside. */
const SAID: { [K in Kind]?: (body: BodyOf<K>) => string } = {
  run_started: ({ framework, max_steps: steps }) => joined(framework, steps != null && `for ${told(steps)} steps`),
  status_changed: ({ status, reason }) => joined(status, reason && `: ${reason}`),
  logged: ({ metrics }) => metricsInWords(metrics),
  evaluated: ({ metrics }) => metricsInWords(metrics),
  checkpoint_saved: ({ tag, checkpoint_id: id, keep_in: where }) => joined(tag ?? id, where === "memory" && "in memory"),
  best_state: ({ at_step: step, metric, value }) => `${metric} was best at step ${told(step)}: ${told(value)}`,
  checkpoint_moved: ({ checkpoint_id: id, path }) => `${id} lies at ${path}`,
  checkpoint_labelled: ({ checkpoint_id: id, tag, pinned }) => joined(id, tag ? `is ${tag}` : "has no tag", pinned && "and is pinned"),
  checkpoint_deleted: ({ checkpoint_id: id, reason }) => `${id}: ${reason}`,
  branch_started: ({ name, parent, from_step: step }) => joined(name, parent && `from step ${told(step)} of ${parent}`),
  trial_started: ({ command }) => (command ? commandInWords(command) : "changing nothing"),
  probed: ({ trials, adopted, reason }) => joined(`${trials.length} trials`, adopted == null ? "none taken" : `number ${adopted + 1} taken`, reason),
  model_read: ({ model }) => `${model.type}, ${told(model.parameters)} parameters, ${told(model.trainable)} trained`,
  weights_sampled: ({ look }) => `update ratio ${told(look.update_ratio)}, straightness ${told(look.straightness)}`,
  dataset_read: ({ type, size, runtime }) => joined(type, size != null && `${told(size)} samples`, runtime && shownValue(runtime)),
  knobs_read: ({ knobs }) => knobs.map(({ name, effective }) => `${name} ${shownValue(effective)}`).join(", "),
  proposed: ({ proposal: { author, command, rationale } }) => joined(`${author.name || author.principal}:`, commandInWords(command), rationale && `(${rationale})`),
  approval_requested: () => "waits for a decision",
  escalated: () => "not decided; the next one is asked",
  judged: ({ verdict: { decision, decided_by: by, reason } }) => joined(decision, `by ${by}`, reason && `: ${reason}`),
  acked: ({ ack: { outcome, changes = [], message } }) =>
    joined(outcome, changes.map(({ name, previous, effective }) => `${name} ${shownValue(previous)} → ${shownValue(effective)}`).join(", "), message),
  settled: ({ outcome, reason }) => joined(outcome, reason && `: ${reason}`),
  read_back: ({ held, found }) => joined(held ? "still in force:" : "no longer in force:", shownValue(found)),
  found: ({ finding: { severity, summary } }) => `${severity}: ${summary}`,
  policy_attached: ({ policy }) => policy,
  policy_detached: ({ policy, reason }) => joined(policy, reason && `: ${reason}`),
  policy_requested: ({ policy, author }) => joined(author && `${author}:`, policy ?? "no policy"),
  decision_awaited: ({ reason }) => reason,
  decided: ({ policy, command_ids: ids = [], reason }) => joined(`${policy}:`, ids.length > 0 ? `asks for ${ids.length}` : "holds", reason && `(${reason})`),
  model_called: ({ model, purpose, usd, error }) => joined(model, `to ${purpose}`, usd != null && toldUsd(usd), error && `failed: ${error}`),
  note_added: ({ author, text }) => joined(author && `${author}:`, text),
  tags_changed: ({ tags }) => tags.join(", ") || "none",
  finding_judged: ({ finding_seq: seq, right, text }) => joined(`finding ${seq} was ${right ? "right" : "wrong"}`, text && `: ${text}`),
  notified: ({ what, ok, error }) => joined(what, ok ? "sent" : "not sent", error && `: ${error}`),
  log_gap: ({ dropped_rows: rows, reason }) => `${told(rows)} rows were dropped: ${reason}`,
};

/** An entry in one line. */
export function entryInWords(body: Body): string {
  const say = SAID[body.kind] as ((body: Body) => string) | undefined;
  if (say) return say(body);
  return shownValue(Object.fromEntries(Object.entries(body).filter(([name]) => name !== "kind")));
}

/** A kind as people read it. */
export function kindInWords(kind: string): string {
  return kind.replaceAll("_", " ");
}
