import type { FindingRead, Intervention } from "../../api/schema";
import { SEVERITIES } from "../../components/decision/SeenPart";
import { STATES, stepOf, toldKind, VERDICTS, withArrows } from "../../components/decision/words";
import { told } from "../../components/numbers";
import type { PlaceMark } from "../../charts/marks";

const MOST_WORDS = 160;

/** A mark for each command, where it took effect, else where it was asked for. */
export function commandMarks(history: readonly Intervention[]): PlaceMark[] {
  return history.map((one) => {
    const { color, sign, says } = STATES[one.state];
    const effect = one.effect ? `; ${VERDICTS[one.effect.verdict].word.toLowerCase()}` : "";
    const words = `Step ${told(stepOf(one))}: ${toldKind(one.kind)} ${says}, ${withArrows(one.summary)}${effect}`;
    return { key: one.command_id, at: stepOf(one), color, sign, label: cut(words) };
  });
}

export function findingMarks(findings: readonly FindingRead[]): PlaceMark[] {
  return findings.map(({ seq, step, finding }) => {
    const { color, sign } = SEVERITIES[finding.severity];
    const words = `Step ${told(step)}: ${finding.severity} finding ${toldKind(finding.kind)}, ${finding.summary}`;
    return { key: String(seq), at: step, color, sign, label: cut(words) };
  });
}

function cut(text: string): string {
  return text.length > MOST_WORDS ? `${text.slice(0, MOST_WORDS)}…` : text;
}
