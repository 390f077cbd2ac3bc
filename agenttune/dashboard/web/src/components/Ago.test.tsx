import { expect, test, vi } from "vitest";

import { serverClock } from "../api/serverClock";
import { Ago } from "./Ago";
import { shown } from "../testing/shown";

test("an age goes by the server's clock, whatever this browser's says", () => {
  const now = Date.UTC(2026, 10, 28, 12);
  vi.setSystemTime(now);
  // The browser is an hour behind: by its own clock the event is yet to come.
  serverClock.note(new Date(now + 3_600_000).toUTCString(), now, now + 30);
  const { container } = shown(<Ago at={(now + 3_600_000) / 1000 - 120} />);
  expect(container.textContent).toContain("2 min ago");
  vi.useRealTimers();
});
