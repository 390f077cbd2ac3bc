import { Button, Group, Text, Textarea, TextInput } from "@mantine/core";
import { withTheme } from "@rjsf/core";
import {
  ariaDescribedByIds,
  type BaseInputTemplateProps,
  type FieldProps,
  type WidgetProps,
} from "@rjsf/utils";
import { useMemo, useState, type ReactNode } from "react";

import type { CommandSchema } from "../api/schema";
import { boundsOf, formOf, givenArguments, readLoose, writeLoose, type FormHints } from "./formSchema";
import { mantineTheme } from "./theme";
import { SchemaValidator } from "./validator";

type Values = Record<string, unknown>;

const validator = new SchemaValidator<Values>();

/** One line of text; a number stands as it was typed, so that `1e-5` can be. */
function LineInput(props: BaseInputTemplateProps<Values>) {
  const { id, htmlName, label, schema, required, disabled, readonly, rawErrors, onChange, onBlur, onFocus } = props;
  const isNumber = schema.type === "number" || schema.type === "integer";
  const current: unknown = props.value;
  const [typed, setTyped] = useState("");
  const shown = isNumber && sameNumber(typed, current) ? typed : asText(current);
  const limits = isNumber ? boundsOf(schema) : "";
  return (
    <>
      <TextInput
        id={id}
        name={htmlName ?? id}
        label={label}
        description={[schema.description, limits].filter(Boolean).join(" ")}
        required={required ?? false}
        withAsterisk={required ?? false}
        disabled={(disabled ?? false) || (readonly ?? false)}
        value={shown}
        error={rawErrors?.join(", ")}
        inputMode={isNumber ? "decimal" : "text"}
        autoComplete="off"
        spellCheck={false}
        {...(schema.examples ? { list: `${id}__names` } : {})}
        aria-describedby={ariaDescribedByIds(id)}
        onChange={({ currentTarget: { value: text } }) => {
          setTyped(text);
          onChange(text === "" ? undefined : text);
        }}
        onBlur={() => onBlur(id, current)}
        onFocus={() => onFocus(id, current)}
      />
      {Array.isArray(schema.examples) && (
        <datalist id={`${id}__names`}>
          {schema.examples.map(asText).map((name) => (
            <option key={name} value={name} />
          ))}
        </datalist>
      )}
    </>
  );
}

function LongText({ id, label, schema, value, required, disabled, rawErrors, onChange }: WidgetProps<Values>) {
  return (
    <Textarea
      id={id}
      label={label}
      description={schema.description}
      required={required ?? false}
      disabled={disabled ?? false}
      autosize
      minRows={2}
      maxRows={10}
      value={asText(value)}
      error={rawErrors?.join(", ")}
      onChange={({ currentTarget: { value: text } }) => onChange(text === "" ? undefined : text)}
    />
  );
}

/** A value of no fixed type: JSON, or a word. */
function LooseField({ schema, formData, onChange, fieldPathId, required, disabled, errorSchema }: FieldProps<Values>) {
  const current: unknown = formData;
  const [text, setText] = useState(() => writeLoose(current));
  const isObject = schema.type === "object";
  const shown = JSON.stringify(readLoose(text)) === JSON.stringify(current) ? text : writeLoose(current);
  return (
    <TextInput
      id={fieldPathId.$id}
      label={schema.title}
      description={schema.description}
      placeholder={isObject ? '{"name": 0.1}' : 'a number, true, a word, [1, 2]'}
      required={required ?? false}
      disabled={disabled ?? false}
      value={shown}
      error={errorsWithin(errorSchema).join(", ") || undefined}
      autoComplete="off"
      spellCheck={false}
      onChange={({ currentTarget: { value: typed } }) => {
        setText(typed);
        onChange(readLoose(typed) as Values | undefined, fieldPathId.path);
      }}
    />
  );
}

/** Errors of a value and of all that is in it. */
function errorsWithin(errors: unknown): string[] {
  if (Array.isArray(errors)) return errors.filter((error): error is string => typeof error === "string");
  if (typeof errors !== "object" || errors === null) return [];
  return Object.values(errors).flatMap(errorsWithin);
}

const theme = mantineTheme<Values>();
const RjsfForm = withTheme<Values>({
  ...theme,
  templates: { ...theme.templates, BaseInputTemplate: LineInput },
  widgets: { ...theme.widgets, TextareaWidget: LongText },
});
const FIELDS = { loose: LooseField };
/** What is not wanted stays empty, so that a form sends no more than what somebody gave. */
const DEFAULTS = { arrayMinItems: { populate: "requiredOnly" }, emptyObjectFields: "skipDefaults" } as const;

export interface CommandFormProps {
  command: CommandSchema;
  /** All commands, as some hold others. */
  all: readonly CommandSchema[];
  /** What stands in the form; only its arguments, without `kind`. */
  values: Values;
  onChange: (values: Values) => void;
  onSubmit: (command: Values & { kind: string }) => void;
  hints?: FormHints;
  disabled?: boolean;
  /** Why it cannot be sent as it stands, though it can be filled in; empty: it can. */
  whyNotSend?: string;
  submitLabel?: string;
  /** Between the fields and the button that sends. */
  before?: ReactNode;
  /** Beside that button. */
  children?: ReactNode;
}

/** A form for one command, made from its schema. */
export default function CommandForm(props: CommandFormProps) {
  const { command, all, values, onChange, onSubmit, hints, disabled = false, whyNotSend = "", submitLabel = "Send", before, children } = props;
  const { schema, uiSchema } = useMemo(() => formOf(command, all, hints), [command, all, hints]);
  const isEmpty = Object.keys((schema.properties ?? {})).length === 0;
  return (
    <RjsfForm
      idPrefix={command.kind}
      schema={schema}
      uiSchema={uiSchema}
      validator={validator}
      fields={FIELDS}
      formData={values}
      disabled={disabled}
      noHtml5Validate
      liveValidate
      showErrorList={false}
      omitExtraData={false}
      experimental_defaultFormStateBehavior={DEFAULTS}
      onChange={({ formData }) => onChange(formData ?? {})}
      onSubmit={({ formData }) => whyNotSend === "" && onSubmit({ kind: command.kind, ...givenArguments(command, formData ?? {}) })}
    >
      {isEmpty && (
        <Text size="sm" c="dimmed">
          It takes no arguments.
        </Text>
      )}
      {before}
      <Group mt="sm" gap="sm">
        <Button type="submit" disabled={disabled || whyNotSend !== ""} title={whyNotSend || undefined}>
          {submitLabel}
        </Button>
        {children}
      </Group>
    </RjsfForm>
  );
}

/** Whether a form of this command has errors as it stands. */
export function hasErrors(command: CommandSchema, all: readonly CommandSchema[], values: Values, hints?: FormHints): boolean {
  return !validator.isValid(formOf(command, all, hints).schema, values, {});
}

function sameNumber(text: string, value: unknown): boolean {
  if (value === undefined || value === null) return text === "";
  return typeof value === "number" ? text.trim() !== "" && Number(text) === value : text === value;
}

function asText(value: unknown): string {
  if (value === undefined || value === null) return "";
  return typeof value === "string" ? value : JSON.stringify(value);
}
