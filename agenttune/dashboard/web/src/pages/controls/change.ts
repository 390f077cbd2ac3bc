import type { AnyCommand } from "../../api/queries";
import type { CommandSchema, KnobState } from "../../api/schema";

/** The argument of a command that names one parameter group. */
const GROUP = "param_group";

/**
 * The command that sets one value: by its name where the command has an argument of that name, else as `name` and
 * `value`; null where the command takes it in neither way.
 *
 * @param group Of this parameter group alone, where the command knows groups.
 */
export function changeOf({ command, name }: Pick<KnobState, "command" | "name">, value: unknown, commands: readonly CommandSchema[], group?: number): AnyCommand | null {
  const fields = fieldsOf(command, commands);
  const alone = group !== undefined && fields.has(GROUP) ? { [GROUP]: group } : {};
  if (fields.has(name)) return { kind: command, [name]: value, ...alone };
  return fields.has("name") && fields.has("value") ? { kind: command, name, value } : null;
}

/** Whether a value can be set for one parameter group alone. */
export function hasGroups({ command, name, groups }: Pick<KnobState, "command" | "name" | "groups">, commands: readonly CommandSchema[]): boolean {
  const fields = fieldsOf(command, commands);
  return (groups ?? []).length > 1 && fields.has(GROUP) && fields.has(name);
}

function fieldsOf(command: string, commands: readonly CommandSchema[]): Set<string> {
  return new Set(commands.find(({ kind }) => kind === command)?.fields.map((field) => field.name));
}

type Groups = Pick<KnobState, "groups" | "base_groups" | "exempt_groups">;

/** Whether all parameter groups have the same value, base and effective. */
export function areAlike({ groups, base_groups: bases }: Groups): boolean {
  const isOne = (values: readonly unknown[]) => new Set(values.map((value) => JSON.stringify(value))).size <= 1;
  return isOne(groups ?? []) && isOne(bases ?? []);
}

/** What is to know of the parameter groups as a whole; empty where there is one. */
export function groupsInWords(knob: Groups): string {
  const count = (knob.groups ?? []).length;
  if (count <= 1) return "";
  const exempt = knob.exempt_groups ?? [];
  const kept = exempt.length ? `; unless named, ${exempt.map(String).join(", ")} stay${exempt.length === 1 ? "s" : ""} as it is` : "";
  return `${areAlike(knob) ? `all ${count} groups alike` : `${count} groups, which differ`}${kept}`;
}
