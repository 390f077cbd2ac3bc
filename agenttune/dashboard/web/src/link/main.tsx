import "@mantine/core/styles.css";
import "uplot/dist/uPlot.min.css";
import "../page.css";

import { MantineProvider } from "@mantine/core";
import { QueryClientProvider } from "@tanstack/react-query";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";

import { queryClient } from "../api/queries";
import { theme } from "../theme";
import { LinkPage } from "./LinkPage";
import { linkIn } from "./linkedRequest";

const root = document.getElementById("root");
if (root === null) throw new Error("link.html has no #root");
createRoot(root).render(
  <StrictMode>
    <QueryClientProvider client={queryClient}>
      <MantineProvider theme={theme} defaultColorScheme="auto">
        <LinkPage link={linkIn(window.location.href)} />
      </MantineProvider>
    </QueryClientProvider>
  </StrictMode>,
);
