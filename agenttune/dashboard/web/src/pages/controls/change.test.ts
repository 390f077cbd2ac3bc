import { expect, it } from "vitest";

import type { CommandSchema } from "../../api/schema";
import { areAlike, changeOf, groupsInWords, hasGroups } from "./change";

const field = (name: string) => ({ name, description: "", required: false, accepts: "" });
const schema = (kind: string, ...fields: string[]): CommandSchema => ({ kind, description: "", risk: "tune", impact: "change", json_schema: {}, fields: fields.map(field) });
const COMMANDS = [schema("update_optimizer", "lr", "lr_sets", "param_group"), schema("set_knob", "name", "value"), schema("plan", "entries")];

it("sets a value by the argument of its name, or as a name with its value", () => {
  expect(changeOf({ command: "update_optimizer", name: "lr" }, 1e-4, COMMANDS)).toEqual({ kind: "update_optimizer", lr: 1e-4 });
  expect(changeOf({ command: "set_knob", name: "noise" }, 0.2, COMMANDS)).toEqual({ kind: "set_knob", name: "noise", value: 0.2 });
  expect(changeOf({ command: "plan", name: "noise" }, 0.2, COMMANDS)).toBeNull();
});

it("sets a value of one parameter group where the command knows groups", () => {
  const lr = { command: "update_optimizer", name: "lr", groups: [1, 2] };
  const noise = { command: "set_knob", name: "noise", groups: [1, 2] };
  expect(changeOf(lr, 1e-4, COMMANDS, 0)).toEqual({ kind: "update_optimizer", lr: 1e-4, param_group: 0 });
  expect(changeOf(noise, 0.2, COMMANDS, 1)).toEqual({ kind: "set_knob", name: "noise", value: 0.2 });
  expect([lr, noise, { ...lr, groups: [1] }].map((knob) => hasGroups(knob, COMMANDS))).toEqual([true, false, false]);
});

it("tells groups that differ, by their effective or their base value", () => {
  expect(areAlike({ groups: [[0.9, 0.99], [0.9, 0.99]], base_groups: null, exempt_groups: [] })).toBe(true);
  expect(areAlike({ groups: [0, 0], base_groups: [1, 2], exempt_groups: [] })).toBe(false);
  expect(groupsInWords({ groups: [1, 2], base_groups: null, exempt_groups: [1] })).toBe("2 groups, which differ; unless named, 1 stays as it is");
  expect(groupsInWords({ groups: [1], base_groups: null, exempt_groups: [] })).toBe("");
});
