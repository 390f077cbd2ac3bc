import type { AnyCommand } from "../../api/queries";
import type { CommandSchema, KnobState } from "../../api/schema";

/**
 * The command that sets one value: by its name where the command has an argument of that name, else as `name` and
 * `value`; null where the command takes it in neither way.
 */
export function changeOf({ command, name }: Pick<KnobState, "command" | "name">, value: unknown, commands: readonly CommandSchema[]): AnyCommand | null {
  const fields = new Set(commands.find(({ kind }) => kind === command)?.fields.map((field) => field.name));
  if (fields.has(name)) return { kind: command, [name]: value };
  return fields.has("name") && fields.has("value") ? { kind: command, name, value } : null;
}
