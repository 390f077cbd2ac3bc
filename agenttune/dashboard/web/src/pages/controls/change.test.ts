import { expect, it } from "vitest";

import type { CommandSchema } from "../../api/schema";
import { changeOf } from "./change";

const field = (name: string) => ({ name, description: "", required: false, accepts: "" });
const schema = (kind: string, ...fields: string[]): CommandSchema => ({ kind, description: "", risk: "tune", impact: "change", json_schema: {}, fields: fields.map(field) });
const COMMANDS = [schema("update_optimizer", "lr", "lr_sets"), schema("set_knob", "name", "value"), schema("plan", "entries")];

it("sets a value by the argument of its name, or as a name with its value", () => {
  expect(changeOf({ command: "update_optimizer", name: "lr" }, 1e-4, COMMANDS)).toEqual({ kind: "update_optimizer", lr: 1e-4 });
  expect(changeOf({ command: "set_knob", name: "noise" }, 0.2, COMMANDS)).toEqual({ kind: "set_knob", name: "noise", value: 0.2 });
  expect(changeOf({ command: "plan", name: "noise" }, 0.2, COMMANDS)).toBeNull();
});
