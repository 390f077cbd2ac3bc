import { expect, test } from "vitest";

import { asciiJson, visible } from "./plain";

test("what cannot be seen is taken out of what a model says, and lines stay", () => {
  expect(visible("lower\u202e the\u200b rate\x1b[31m\nnow 漢 🙂")).toBe("lower the rate[31m\nnow 漢 🙂");
});

test("a command is told in ASCII, so that no letter passes for another", () => {
  const command = { layer_name: "h.1\u202e", name: "а 🙂" }; // a Cyrillic letter
  expect(asciiJson(command)).toBe('{\n  "layer_name": "h.1\\u202e",\n  "name": "\\u0430 \\ud83d\\ude42"\n}');
  expect(JSON.parse(asciiJson(command))).toEqual(command);
});
