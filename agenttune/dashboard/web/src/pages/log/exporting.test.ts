import { expect, it } from "vitest";

import type { Event } from "../../api/schema";
import { csvLine, jsonLine } from "./exporting";

const note = (text: string): Event => ({ seq: 3, at_s: 0, step: 7, branch: "main", command_id: null, body: { kind: "note_added", text, author: "" } });

it("writes a row that spreadsheets read, with quotes and line ends in it", () => {
  expect(csvLine(note('a, "b"\nc'))).toBe('3,1970-01-01T00:00:00.000Z,7,main,,note_added,"a, ""b""\nc"\r\n');
});

it("gives a spreadsheet no formula to carry out", () => {
  expect(csvLine(note("=HYPERLINK(1)"))).toContain("'=HYPERLINK(1)");
});

it("writes one line of JSON an entry", () => {
  expect(JSON.parse(jsonLine(note("a\nb")))).toEqual(note("a\nb"));
  expect(jsonLine(note("a\nb")).trim()).not.toContain("\n");
});
