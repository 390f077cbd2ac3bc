import { screen } from "@testing-library/react";
import { expect, test, vi } from "vitest";

import { ServerAway, ServerError } from "../api/client";
import { shown } from "../testing/shown";
import { LinkPage } from "./LinkPage";
import { linkIn, type Link } from "./linkedRequest";

const refused = (status: number, message: string) => new ServerError(status, { type: "LinkRefused", message });

function opened(error: Error) {
  const unused = vi.fn();
  const link: Link = { read: () => Promise.reject(error), preview: unused, decide: unused };
  shown(<LinkPage link={link} />);
}

test.each([
  [403, "This link is not valid. It is incomplete, or was not made by this server."],
  [409, "This no longer waits for a decision. update_optimizer was rejected by operator:anna."],
  [410, "This link has expired. It worked until 2026-11-28 12:00:00 UTC."],
])("what a link can no longer do is said in a sentence (%d)", async (status, sentence) => {
  opened(refused(status, sentence));
  expect(await screen.findByText(sentence)).toBeTruthy();
  expect(screen.queryByRole("button")).toBeNull();
  expect(document.title).toBe("Nothing to decide – agenttune");
});

test.each([new ServerAway(null), refused(503, "This server cannot read the run's log now. Try again later.")])(
  "a server that is away or cannot read is asked again (%#)",
  async (error) => {
    opened(error);
    expect(await screen.findByText(/This page asks again by itself/)).toBeTruthy();
  },
);

test("a link is used at its own address, without cookies, whatever a tunnel puts in front", async () => {
  const fetched = vi.spyOn(window, "fetch").mockImplementation(() => Promise.resolve(Response.json({ decision: "approved" })));
  await linkIn("https://my.example/far/links/a.b-c?x=1#y").preview({ kind: "update_optimizer", lr: 0.1 });
  const request = fetched.mock.calls[0]?.[0] as Request;
  expect([request.url, request.method, request.credentials]).toEqual(["https://my.example/far/links/a.b-c/preview", "POST", "omit"]);
  fetched.mockRestore();
});
