import { Validator, type OutputUnit, type Schema } from "@cfworker/json-schema";
import {
  createErrorHandler,
  toErrorList,
  toErrorSchema,
  unwrapErrorHandler,
  validationDataMerge,
  type CustomValidator,
  type ErrorTransformer,
  type FormContextType,
  type RJSFSchema,
  type RJSFValidationError,
  type StrictRJSFSchema,
  type UiSchema,
  type ValidationData,
  type ValidatorType,
} from "@rjsf/utils";

/** Says only that something within it is wrong, which has an error of its own. */
const OUTER = new Set(["properties", "items", "prefixItems", "allOf", "additionalItems", "$ref"]);

type Raw = Record<string, unknown>;

/**
 * Checks the values of a form by its JSON schema, without compiling it to code: the page's content security policy
 * forbids `eval`.
 */
export class SchemaValidator<T = unknown, S extends StrictRJSFSchema = RJSFSchema, F extends FormContextType = object>
  implements ValidatorType<T, S, F>
{
  validateFormData(
    formData: T | undefined,
    schema: S,
    customValidate?: CustomValidator<T, S, F>,
    transformErrors?: ErrorTransformer<T, S, F>,
    uiSchema?: UiSchema<T, S, F>,
  ): ValidationData<T> {
    const found = errorsOf(schema as Raw, formData);
    const errors = transformErrors ? transformErrors(found, uiSchema) : found;
    const checked = { errors, errorSchema: toErrorSchema<T>(errors) };
    if (customValidate === undefined) return checked;
    const handler = customValidate(formData, createErrorHandler<T>(formData as T), uiSchema, checked.errorSchema);
    const own = unwrapErrorHandler<T>(handler);
    return validationDataMerge<T>({ errors: [...errors, ...toErrorList(own)], errorSchema: checked.errorSchema }, own);
  }

  isValid(schema: S, formData: T | undefined, rootSchema: S): boolean {
    const { $defs, definitions } = rootSchema as Raw;
    const shared: Raw = { ...($defs ? { $defs } : {}), ...(definitions ? { definitions } : {}) };
    return errorsOf({ ...shared, ...(schema as Raw) }, formData).length === 0;
  }

  // The signature is rjsf's.
  // eslint-disable-next-line @typescript-eslint/no-unnecessary-type-parameters
  rawValidation<Result>(schema: S, formData?: T): { errors?: Result[]; validationError?: Error } {
    return { errors: errorsOf(schema as Raw, formData) as Result[] };
  }
}

/** Errors of values, each at its field, in words. */
export function errorsOf(schema: Raw, values: unknown): RJSFValidationError[] {
  // What a form leaves empty is undefined, which is no JSON; NaN becomes null, and null is no number.
  const plain = (values === undefined ? {} : JSON.parse(JSON.stringify(values))) as unknown;
  const fitting = narrow(schema, plain) as Schema;
  const units = new Validator(fitting, "2019-09", false).validate(plain).errors;
  const inner = units.filter(({ keyword }) => !OUTER.has(keyword));
  // Of several choices none of which fits, the first error says all there is to say.
  const choices = inner.filter(({ keyword }) => keyword === "anyOf" || keyword === "oneOf");
  const shown = inner.filter((unit) => !choices.some((choice) => choice !== unit && isWithin(unit, choice)));
  return shown.map((unit) => said(unit, fitting));
}

function isWithin(unit: OutputUnit, choice: OutputUnit): boolean {
  return unit.keywordLocation.startsWith(`${choice.keywordLocation}/`);
}

/** Of alternatives that differ by their `kind`, the one that is meant, so that its errors are told and not those of all. */
function narrow(schema: unknown, value: unknown): unknown {
  if (!isRecord(schema)) return schema;
  const alternatives = Array.isArray(schema.oneOf) ? schema.oneOf.filter(isRecord) : [];
  const kind = isRecord(value) ? value.kind : undefined;
  const meant = alternatives.find((one) => kind !== undefined && kindOf(one) === kind);
  if (meant !== undefined) {
    return narrow({ ...without(schema, "oneOf"), ...meant }, value);
  }
  if (Array.isArray(value) && isRecord(schema.items)) {
    const items = schema.items;
    return { ...schema, items: value.map((entry) => narrow(items, entry)) };
  }
  if (!isRecord(schema.properties) || !isRecord(value)) return schema;
  const narrowed = Object.entries(schema.properties).map(([name, part]) => [name, narrow(part, value[name])] as const);
  return { ...schema, properties: Object.fromEntries(narrowed) };
}

function kindOf(schema: Raw): unknown {
  const kind = isRecord(schema.properties) ? schema.properties.kind : undefined;
  return isRecord(kind) ? kind.const : undefined;
}

function said(unit: OutputUnit, schema: Schema): RJSFValidationError {
  const missing = unit.keyword === "required" ? /property "(.*)"/.exec(unit.error)?.[1] : undefined;
  const path = partsOf(unit.instanceLocation);
  const property = [...path, ...(missing === undefined ? [] : [missing])];
  const message = sentence(unit, limitAt(schema, unit.keywordLocation));
  return {
    name: unit.keyword,
    message,
    property: property.map((part) => (/^\d+$/.test(part) ? `[${part}]` : `.${part}`)).join(""),
    stack: `${property.join(".")} ${message}`.trim(),
    schemaPath: unit.keywordLocation,
  };
}

function sentence({ keyword, error }: OutputUnit, limit: unknown): string {
  switch (keyword) {
    case "required":
      return "is wanted";
    case "minimum":
      return `must be at least ${told(limit)}`;
    case "maximum":
      return `must be at most ${told(limit)}`;
    case "exclusiveMinimum":
      return `must be above ${told(limit)}`;
    case "exclusiveMaximum":
      return `must be below ${told(limit)}`;
    case "type":
      return `must be ${NAMES[String(limit)] ?? told(limit)}`;
    case "enum":
      return `must be one of ${told(limit)}`;
    case "pattern":
      return "has a form that is not allowed";
    case "minLength":
    case "minItems":
    case "minProperties":
      return "is too short";
    case "maxLength":
    case "maxItems":
      return `is longer than ${told(limit)}`;
    case "anyOf":
    case "oneOf":
      return "is of no type that is allowed here";
    case "additionalProperties":
    case "unevaluatedProperties":
      return "is not known";
    default:
      return error;
  }
}

const NAMES: Partial<Record<string, string>> = {
  number: "a number",
  integer: "a whole number",
  boolean: "true or false",
  string: "a word",
  array: "a list",
  object: 'an object, such as {"name": 1}',
};

function told(limit: unknown): string {
  return Array.isArray(limit) ? limit.map(String).join(", ") : String(limit);
}

/** What stands in a schema at a location such as `#/properties/lr/maximum`. */
function limitAt(schema: unknown, location: string): unknown {
  let at: unknown = schema;
  for (const part of partsOf(location)) {
    if (typeof at !== "object" || at === null) return undefined;
    at = (at as Raw)[part];
  }
  return at;
}

function partsOf(pointer: string): string[] {
  return pointer
    .split("/")
    .slice(1)
    .map((part) => decodeURIComponent(part).replaceAll("~1", "/").replaceAll("~0", "~"));
}

function without(schema: Raw, name: string): Raw {
  return Object.fromEntries(Object.entries(schema).filter(([key]) => key !== name));
}

function isRecord(value: unknown): value is Raw {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
