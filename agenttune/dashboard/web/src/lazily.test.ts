import { expect, it } from "vitest";

import { patiently } from "./lazily";

function failing(times: number): () => Promise<string> {
  let left = times;
  return () => (left-- > 0 ? Promise.reject(new Error("Failed to fetch")) : Promise.resolve("page"));
}

it("comes by itself once the server is back", async () => {
  expect(await patiently(failing(3), () => Promise.resolve(false), 0)).toBe("page");
});

it("does not ask for ever for a file that another version of the server has not", async () => {
  await expect(patiently(failing(99), () => Promise.resolve(true), 0)).rejects.toThrow("another version");
});
