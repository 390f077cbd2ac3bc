import { Title } from "@mantine/core";
import type { ReactNode } from "react";

/** A part of a card with its heading. */
export function Part({ title, children }: { title: string; children: ReactNode }) {
  return (
    <div>
      <Title order={3} size="xs" c="dimmed" tt="uppercase">
        {title}
      </Title>
      {children}
    </div>
  );
}
