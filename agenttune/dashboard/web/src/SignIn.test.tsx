import { MantineProvider } from "@mantine/core";
import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { render, screen } from "@testing-library/react";
import userEvent from "@testing-library/user-event";
import { afterEach, expect, test, vi } from "vitest";

import { SignIn, Who } from "./SignIn";

const ME = { role: "viewer", name: "bob", via: "cookie", token: "", runs: [], rights: {}, why_not: {}, commands: {}, notice: "" };

function answering(body: unknown, status = 200) {
  const asked: Request[] = [];
  vi.stubGlobal("fetch", (request: Request) => {
    asked.push(request);
    return Promise.resolve(new Response(JSON.stringify(body), { status, headers: { "Content-Type": "application/json" } }));
  });
  return asked;
}

function show(part: React.ReactNode) {
  const client = new QueryClient({ defaultOptions: { queries: { retry: false } } });
  render(
    <QueryClientProvider client={client}>
      <MantineProvider>{part}</MantineProvider>
    </QueryClientProvider>,
  );
}

afterEach(() => vi.unstubAllGlobals());

test("a token goes to the server once and is kept nowhere", async () => {
  const asked = answering(ME);
  show(<SignIn />);
  await userEvent.type(screen.getByLabelText("Or with a token"), "att_1_secret");
  await userEvent.click(screen.getByRole("button", { name: "Sign in" }));
  expect(asked[0]?.method).toBe("POST");
  expect(await asked[0]?.json()).toEqual({ token: "att_1_secret" });
  expect(screen.getByLabelText<HTMLInputElement>("Or with a token").value).toBe("");
  expect(JSON.stringify([Object.entries(localStorage), Object.entries(sessionStorage)])).not.toContain("secret");
});

test("a token that does not count is said in the server's words", async () => {
  answering({ error: { type: "Unauthorized", message: "this link does not count (any longer)" } }, 401);
  show(<SignIn />);
  await userEvent.type(screen.getByLabelText("Or with a token"), "x");
  await userEvent.click(screen.getByRole("button", { name: "Sign in" }));
  expect((await screen.findByRole("alert")).textContent).toContain("does not count");
});

test("who has signed in is named and can sign out", async () => {
  const asked = answering(ME);
  show(<Who />);
  await userEvent.click(await screen.findByRole("button", { name: "Sign out" }));
  expect(screen.getByText("bob, viewer")).toBeTruthy();
  expect(asked.some((request) => request.method === "DELETE")).toBe(true);
});

test("who has not signed in can, wherever they are", async () => {
  answering({ ...ME, name: "", via: "local", role: "agent" });
  show(<Who />);
  await userEvent.click(await screen.findByRole("button", { name: "Sign in" }));
  expect(await screen.findByLabelText("Or with a token")).toBeTruthy();
});
