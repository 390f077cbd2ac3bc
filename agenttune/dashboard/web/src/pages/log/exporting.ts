import type { Event } from "../../api/schema";
import { readPage, type LogFilter } from "./filter";
import { entryInWords } from "./words";

const EXPORT_PAGE = 2000;

export type Format = "jsonl" | "csv";

/** All entries that pass a filter, as one file. */
export async function exported(runId: string, filter: LogFilter, format: Format, onCount: (count: number) => void): Promise<Blob> {
  const parts: string[] = format === "csv" ? [line(HEAD)] : [];
  let since = 0;
  let count = 0;
  for (;;) {
    const { events, next } = await readPage(runId, filter, { since }, EXPORT_PAGE);
    parts.push(events.map(format === "csv" ? csvLine : jsonLine).join(""));
    count += events.length;
    onCount(count);
    if (events.length < EXPORT_PAGE) break;
    since = next;
  }
  return new Blob(parts, { type: format === "csv" ? "text/csv" : "application/jsonl" });
}

export function jsonLine(event: Event): string {
  return `${JSON.stringify(event)}\n`;
}

const HEAD = ["seq", "time", "step", "branch", "command_id", "kind", "text"];

export function csvLine({ seq, at_s: atS, step, branch, command_id: commandId, body }: Event): string {
  return line([String(seq), new Date(atS * 1000).toISOString(), String(step ?? ""), branch, commandId ?? "", body.kind, entryInWords(body)]);
}

function line(cells: readonly string[]): string {
  return `${cells.map(cell).join(",")}\r\n`;
}

/** Quoted where it must be; a text that a spreadsheet would take for a formula begins with an apostrophe. */
function cell(text: string): string {
  const safe = /^[=+\-@\t\r]/.test(text) && Number.isNaN(Number(text)) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

/** Lets the browser save a file. */
export function save(blob: Blob, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  window.setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
