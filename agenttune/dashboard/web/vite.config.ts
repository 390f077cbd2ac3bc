import { fileURLToPath } from "node:url";

import react from "@vitejs/plugin-react";
import { defineConfig } from "vitest/config";

import { onlyUsedStyles } from "./mantineStyles";

const own = (path: string) => fileURLToPath(new URL(`src/${path}`, import.meta.url));
// In development the page is served by vite, and the control server answers beside it.
const CONTROL_SERVER = process.env.AGENTTUNE_SERVER ?? "http://127.0.0.1:7007";

export default defineConfig({
  plugins: [react(), onlyUsedStyles(fileURLToPath(new URL(".", import.meta.url)))],
  resolve: {
    alias: {
      "@rjsf/validator-ajv8": own("forms/noAjv.ts"),
      "markdown-to-jsx/react": own("forms/plainText.tsx"),
      "fast-uri": own("forms/uri.ts"),
    },
  },
  build: {
    outDir: "../built",
    emptyOutDir: true,
    target: "es2022",
    assetsInlineLimit: 0,
    rolldownOptions: {
      input: ["index.html", "link.html"],
      output: {
        codeSplitting: {
          groups: [
            // Mantine in one file: in thirty small ones it is a fifth heavier, and each is a request of its own.
            { name: "ui", test: /node_modules\/(@mantine|@floating-ui)\// },
            // All styles at once: what a part of the page cannot load while the server is away is not asked for again.
            { name: "styles", test: /\.css$/ },
          ],
        },
      },
    },
  },
  experimental: {
    // The page behind a signed link finds its files from its own address, as a tunnel may put a path in front of it.
    renderBuiltUrl: (name, { hostType, hostId }) => {
      if (hostType === "html") return hostId.endsWith("link.html") ? `./${name}` : undefined;
      return { relative: true };
    },
  },
  server: { proxy: { "/api": { target: CONTROL_SERVER, ws: true }, "/links": CONTROL_SERVER } },
  // Each file has a jsdom of its own, though not a process: with that, making them took four fifths of the time. With one
  // worker, files would share theirs.
  test: { pool: "vmThreads", maxWorkers: 2, environment: "jsdom", include: ["src/**/*.test.{ts,tsx}"], setupFiles: ["src/testing/setup.ts"], server: { deps: { inline: [/@rjsf/] } } },
});
