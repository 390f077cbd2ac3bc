import { screen } from "@testing-library/react";
import userEvent from "@testing-library/user-event";
import { useState } from "react";
import { expect, test, vi } from "vitest";

import type { CommandSchema } from "../api/schema";
import { shown } from "../testing/shown";
import CommandForm from "./CommandForm";
import { formOf, givenArguments, readLoose, writeLoose, type FormHints } from "./formSchema";
import { errorsOf } from "./validator";

const nullable = (schema: object, more: object = {}) => ({ anyOf: [schema, { type: "null" }], default: null, ...more });

function command(kind: string, properties: object, required: string[] = []): CommandSchema {
  const parts = { kind: { const: kind, default: kind, type: "string" }, ...properties };
  const schema = { type: "object", additionalProperties: false, properties: parts, required };
  return { kind, description: "", risk: "tune", impact: "change", json_schema: schema, fields: [] };
}

const OPTIMIZER = command("update_optimizer", {
  lr: nullable({ type: "number", minimum: 0, maximum: 100 }, { description: "Learning rate." }),
  lr_sets: { type: "string", enum: ["effective", "base"], default: "effective" },
  betas: nullable({ type: "array", minItems: 2, maxItems: 2, prefixItems: [{ type: "number", minimum: 0 }, { type: "number", exclusiveMaximum: 1 }] }),
  other: { type: "object", additionalProperties: true },
});
const KNOB = command(
  "set_knob",
  { name: { type: "string", minLength: 1 }, value: { anyOf: [{ type: "boolean" }, { type: "number" }, { type: "string" }] } },
  ["name", "value"],
);
const PROBE = command(
  "probe",
  {
    candidates: {
      type: "array",
      minItems: 1,
      items: { type: "object", properties: { kind: { type: "string", enum: ["update_optimizer", "set_knob"] } }, required: ["kind"] },
    },
  },
  ["candidates"],
);
const NEW = command("mend_tokenizer", { strength: { type: "integer", minimum: 1, maximum: 9 } }, ["strength"]);
const ALL = [OPTIMIZER, KNOB, PROBE, NEW];

function errors(kind: CommandSchema, values: object, hints?: FormHints) {
  const found = errorsOf(formOf(kind, ALL, hints).schema, values);
  return Object.fromEntries(found.map(({ property = "", message }): [string, unknown] => [property, message]));
}

test("each error stands at its field, and names the limit", () => {
  expect(errors(OPTIMIZER, { lr: 200, betas: [-1, 1] })).toEqual({
    ".lr": "must be at most 100",
    ".betas[0]": "must be at least 0",
    ".betas[1]": "must be below 1",
  });
  expect(errors(OPTIMIZER, { lr: "fast" })).toEqual({ ".lr": "must be a number" });
  expect(errors(OPTIMIZER, { lr: Number.NaN })).toEqual({ ".lr": "must be a number" });
  expect(errors(KNOB, {})).toEqual({ ".name": "is wanted", ".value": "is wanted" });
  expect(errors(KNOB, { name: "alpha", value: {} })).toEqual({ ".value": "is of no type that is allowed here" });
});

test("what may be null may stay empty", () => {
  expect(errors(OPTIMIZER, { lr: undefined })).toEqual({});
  expect(givenArguments(OPTIMIZER, { lr: undefined, lr_sets: "effective", other: {}, betas: [] })).toEqual({});
  expect(givenArguments(OPTIMIZER, { lr: 0, lr_sets: "base" })).toEqual({ lr: 0, lr_sets: "base" });
});

test("the gate's bounds narrow a field's own and never widen them", () => {
  const hints = { bounds: { lr: [1e-6, 0.05] as const } };
  expect(errors(OPTIMIZER, { lr: 0.5 }, hints)).toEqual({ ".lr": "must be at most 0.05" });
  expect(errors(OPTIMIZER, { lr: 0 }, hints)).toEqual({ ".lr": "must be at least 0.000001" });
  expect(errors(OPTIMIZER, { lr: 200 }, { bounds: { lr: [null, 1000] } })).toEqual({ ".lr": "must be at most 100" });
});

test("a command within a command is held to its own schema", () => {
  expect(errors(PROBE, { candidates: [{ kind: "update_optimizer", lr: 1 }, { kind: "update_optimizer", lr: -1 }] })).toEqual({
    ".candidates[1].lr": "must be at least 0",
  });
  expect(errors(PROBE, { candidates: [] })).toEqual({ ".candidates": "is too short" });
});

test("a value of no fixed type is JSON where it is JSON, and comes back as it was", () => {
  for (const value of [0.1, true, "cosine", "0.1", "true", "", [1, 2], { alpha: 0.1 }]) {
    expect(readLoose(writeLoose(value))).toEqual(value);
  }
  expect(readLoose("  ")).toBeUndefined();
});

function Filled({ kind, onSubmit, hints = {} }: { kind: CommandSchema; onSubmit: () => void; hints?: FormHints }) {
  const [values, setValues] = useState<Record<string, unknown>>({});
  return <CommandForm command={kind} all={ALL} values={values} onChange={setValues} onSubmit={onSubmit} hints={hints} />;
}

test("a number is sent as it was typed, with an exponent", async () => {
  const user = userEvent.setup();
  const onSubmit = vi.fn();
  shown(<Filled kind={OPTIMIZER} onSubmit={onSubmit} />);
  await user.type(screen.getByRole("textbox", { name: "lr" }), "1e-12");
  expect(screen.getByRole("textbox", { name: "lr" })).toHaveProperty("value", "1e-12");
  await user.click(screen.getByRole("button", { name: "Send" }));
  expect(onSubmit).toHaveBeenCalledWith({ kind: "update_optimizer", lr: 1e-12 });
});

test("nothing is sent that the schema forbids, and the field says why", async () => {
  const user = userEvent.setup();
  const onSubmit = vi.fn();
  shown(<Filled kind={OPTIMIZER} onSubmit={onSubmit} />);
  await user.type(screen.getByRole("textbox", { name: "lr" }), "200");
  expect(screen.getByRole("textbox", { name: "lr" }).getAttribute("aria-invalid")).toBe("true");
  expect(screen.getAllByText("must be at most 100").length).toBeGreaterThan(0);
  await user.click(screen.getByRole("button", { name: "Send" }));
  expect(onSubmit).not.toHaveBeenCalled();
});

test("a command that nobody knew when the page was written has its form", async () => {
  const user = userEvent.setup();
  const onSubmit = vi.fn();
  shown(<Filled kind={NEW} onSubmit={onSubmit} />);
  await user.type(screen.getByRole("textbox", { name: /strength/ }), "3");
  await user.click(screen.getByRole("button", { name: "Send" }));
  expect(onSubmit).toHaveBeenCalledWith({ kind: "mend_tokenizer", strength: 3 });
});

test("a value of a knob keeps its type", async () => {
  const user = userEvent.setup();
  const onSubmit = vi.fn();
  shown(<Filled kind={KNOB} onSubmit={onSubmit} hints={{ examples: { name: ["alpha"] } }} />);
  await user.type(screen.getByRole("combobox", { name: /name/ }), "alpha");
  await user.type(screen.getByRole("textbox", { name: /value/ }), "true");
  await user.click(screen.getByRole("button", { name: "Send" }));
  expect(onSubmit).toHaveBeenCalledWith({ kind: "set_knob", name: "alpha", value: true });
});
