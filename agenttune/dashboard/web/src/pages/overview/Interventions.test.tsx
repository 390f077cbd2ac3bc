import { fireEvent, screen } from "@testing-library/react";
import { expect, it, vi } from "vitest";

import type { Intervention, State } from "../../api/schema";
import { shown } from "../../testing/shown";
import { alsoInWords, Interventions } from "./Interventions";

const asked = (id: string, kind: string, state: State) =>
  ({ command_id: id, kind, state, summary: id, rationale: "", author: "guardian", proposed_at_step: 1 }) as unknown as Intervention;

it("counts as changed only what reached the trainer, or may yet", () => {
  const history = [asked("one", "load_checkpoint", "rejected"), asked("two", "load_checkpoint", "superseded"), asked("three", "update_optimizer", "kept")];
  shown(<Interventions history={history} nothing="" chosen="" onChoose={vi.fn()} />);
  expect(screen.getByRole("heading", { level: 2 }).textContent).toBe("What was changed 1");
  expect(screen.getAllByRole("row")).toHaveLength(2); // the head, and what was kept
  fireEvent.click(screen.getByRole("button", { name: "Also 2 commands that changed nothing: 2 were refused or came too late" }));
  expect(screen.getAllByRole("row")).toHaveLength(4);
});

it("says of what sort the folded commands are", () => {
  expect(alsoInWords(1, 1)).toBe("Also one command that changed nothing: one was refused or came too late");
  expect(alsoInWords(5, 2)).toBe("Also 5 commands that changed nothing: pauses, evaluations, saves, notes; 2 were refused or came too late");
});
