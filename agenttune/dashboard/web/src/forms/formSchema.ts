import type { RJSFSchema, UiSchema } from "@rjsf/utils";

import type { CommandSchema } from "../api/schema";

/** Lowest and highest value of a field, as the run's gate has them; null where it sets none. */
export type Bounds = Readonly<Partial<Record<string, readonly [number | null, number | null]>>>;

/** What of a run its forms know beside the schema of a command. */
export interface FormHints {
  bounds?: Bounds;
  /** Names to choose from, by field: knobs, checkpoints, layers. A name that is not among them may still be typed. */
  examples?: Readonly<Partial<Record<string, readonly string[]>>>;
}

export interface CommandFormSchema {
  schema: RJSFSchema;
  uiSchema: UiSchema;
}

type Schema = Record<string, unknown>;

/**
 * The form of a command, from its JSON schema alone: a new command or field appears without touching the page.
 *
 * `kind` is left out, as the form is for one kind. What may be null is a field that may stay empty. Values of no fixed
 * type are one field of text that is read as JSON.
 */
export function formOf(command: CommandSchema, all: readonly CommandSchema[], hints: FormHints = {}): CommandFormSchema {
  const { schema, uiSchema } = objectForm(command.json_schema, all, hints);
  return { schema: { ...schema, title: "", description: "" }, uiSchema };
}

function objectForm(schema: Schema, all: readonly CommandSchema[], hints: FormHints): CommandFormSchema {
  const properties = Object.entries(schemas(schema.properties)).filter(([name]) => name !== "kind");
  const fields = properties.map(([name, part]) => [name, fieldForm(name, part, all, hints)] as const);
  return {
    schema: {
      ...schema,
      required: texts(schema.required).filter((name) => name !== "kind"),
      properties: Object.fromEntries(fields.map(([name, field]) => [name, field.schema])),
    },
    uiSchema: Object.fromEntries(fields.map(([name, field]) => [name, field.uiSchema])),
  };
}

function fieldForm(name: string, part: Schema, all: readonly CommandSchema[], hints: FormHints): CommandFormSchema {
  const choices = Array.isArray(part.anyOf) ? (part.anyOf as Schema[]).filter(({ type }) => type !== "null") : [part];
  // A default of null means that the field may stay empty.
  const kept = Object.entries(part).filter(([key, value]) => key !== "anyOf" && !(key === "default" && value === null));
  const titled = { ...Object.fromEntries(kept), title: name };
  const [only] = choices;
  if (choices.length !== 1 || only === undefined || only.type === undefined) {
    return loose({ ...titled, anyOf: choices });
  }
  const merged: Schema = { ...only, ...titled };
  if (merged.type === "object" && merged.properties === undefined) return loose(merged);
  if (merged.type === "array") return arrayForm(merged, all, hints);
  const examples = hints.examples?.[name];
  const bounded = narrowed(merged, hints.bounds?.[name]);
  return {
    schema: (examples?.length ? { ...bounded, examples: [...examples] } : bounded),
    uiSchema: longText(merged) ? { "ui:widget": "textarea" } : {},
  };
}

/** A value that is read as JSON, or as a word where it is none. */
function loose(schema: Schema): CommandFormSchema {
  return { schema: schema, uiSchema: LOOSE_UI };
}

function arrayForm(schema: Schema, all: readonly CommandSchema[], hints: FormHints): CommandFormSchema {
  if (Array.isArray(schema.prefixItems)) {
    const { prefixItems, ...rest } = schema;
    return { schema: { ...rest, items: prefixItems, additionalItems: false }, uiSchema: LOOSE_UI };
  }
  const items = schema.items as Schema | undefined;
  const kinds = texts(schemas(items?.properties).kind?.enum);
  const commands = kinds.flatMap((kind) => all.filter((command) => command.kind === kind));
  if (commands.length === 0) return { schema: schema, uiSchema: {} };
  const forms = commands.map((command) => {
    const { schema: form, uiSchema } = objectForm(command.json_schema, all, hints);
    const kind = { const: command.kind, default: command.kind, type: "string", title: "kind" };
    return {
      schema: { ...form, title: command.kind, description: "", properties: { kind, ...form.properties } },
      uiSchema: { kind: { "ui:widget": "hidden" }, ...uiSchema },
    };
  });
  return {
    schema: {
      ...schema,
      items: { title: "candidate", type: "object", oneOf: forms.map(({ schema: form }) => form) },
    } as RJSFSchema,
    uiSchema: { items: { oneOf: forms.map(({ uiSchema }) => uiSchema), "ui:options": { label: false } } },
  };
}

const LOOSE_UI: UiSchema = { "ui:field": "loose", "ui:fieldReplacesAnyOrOneOf": true };

const LONG_TEXT = 1000;

function longText(schema: Schema): boolean {
  return schema.type === "string" && typeof schema.maxLength === "number" && schema.maxLength > LONG_TEXT;
}

/** The narrower of a command's own bounds and those of the gate. */
function narrowed(schema: Schema, bounds: readonly [number | null, number | null] | undefined): Schema {
  if (bounds === undefined || (schema.type !== "number" && schema.type !== "integer")) return schema;
  const [low, high] = bounds;
  const own = { low: numberOr(schema.minimum, -Infinity), high: numberOr(schema.maximum, Infinity) };
  return {
    ...schema,
    ...(low !== null && low > own.low ? { minimum: low } : {}),
    ...(high !== null && high < own.high ? { maximum: high } : {}),
  };
}

/** Lowest to highest allowed, in words; empty where there is no limit. */
export function boundsOf(schema: Schema): string {
  const low = schema.minimum ?? schema.exclusiveMinimum;
  const high = schema.maximum ?? schema.exclusiveMaximum;
  const said = (value: unknown, exclusive: unknown) => `${exclusive !== undefined ? "(excluded) " : ""}${String(value)}`;
  if (low === undefined && high === undefined) return "";
  if (high === undefined) return `from ${said(low, schema.exclusiveMinimum)}`;
  if (low === undefined) return `up to ${said(high, schema.exclusiveMaximum)}`;
  return `${said(low, schema.exclusiveMinimum)} to ${said(high, schema.exclusiveMaximum)}`;
}

/** What was typed into a field of no fixed type: JSON where it is JSON, else a word; nothing is nothing. */
export function readLoose(text: string): unknown {
  if (text.trim() === "") return undefined;
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return text;
  }
}

/** A value as it stands in such a field: quotes only where they tell a word from something else. */
export function writeLoose(value: unknown): string {
  if (value === undefined) return "";
  if (typeof value === "string" && readLoose(value) === value) return value;
  return JSON.stringify(value);
}

/** Arguments without those that say nothing: what is empty, and what is the default. */
export function givenArguments(command: CommandSchema, values: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const parts = schemas(command.json_schema.properties);
  const required = texts(command.json_schema.required);
  return Object.fromEntries(
    Object.entries(values).filter(([name, value]) => {
      if (name === "kind" || value === undefined || value === null) return false;
      if (required.includes(name)) return true;
      if (isEmptyObject(value) || (Array.isArray(value) && value.every((item) => item === undefined))) return false;
      return JSON.stringify(parts[name]?.default) !== JSON.stringify(value);
    }),
  );
}

/** What stands in an untouched form: the defaults that say something. */
export function defaultsOf(command: CommandSchema): Record<string, unknown> {
  const parts = Object.entries(schemas(command.json_schema.properties)).filter(([name]) => name !== "kind");
  const defaults = parts.map(([name, part]) => [name, part.default] as const);
  return Object.fromEntries(defaults.filter(([, value]) => value !== undefined && value !== null && !isEmptyObject(value)));
}

function isEmptyObject(value: unknown): boolean {
  return typeof value === "object" && value !== null && !Array.isArray(value) && Object.keys(value).length === 0;
}

function schemas(value: unknown): Record<string, Schema> {
  return typeof value === "object" && value !== null ? (value as Record<string, Schema>) : {};
}

function texts(value: unknown): string[] {
  return Array.isArray(value) ? value.filter((entry): entry is string => typeof entry === "string") : [];
}

function numberOr(value: unknown, fallback: number): number {
  return typeof value === "number" ? value : fallback;
}
