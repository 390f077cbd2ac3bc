import { MantineProvider } from "@mantine/core";
import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { render, type RenderResult } from "@testing-library/react";
import type { ReactElement } from "react";

import { theme } from "../theme";

/** A component in a page of its own, with an empty cache that asks nobody twice. */
export function shown(element: ReactElement): RenderResult & { client: QueryClient } {
  const client = new QueryClient({ defaultOptions: { queries: { retry: false } } });
  const result = render(
    <QueryClientProvider client={client}>
      <MantineProvider theme={theme}>{element}</MantineProvider>
    </QueryClientProvider>,
  );
  return { ...result, client };
}
