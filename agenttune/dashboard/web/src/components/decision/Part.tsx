import { Text, Title } from "@mantine/core";
import type { ReactNode } from "react";

/** One part of a story, with its question above. */
export function Part({ title, children }: { title: string; children: ReactNode }) {
  return (
    <div>
      <Title order={3} size="sm" c="dimmed" mb={2}>
        {title}
      </Title>
      {children}
    </div>
  );
}

/** Words of an agent or a person, as text, however long. */
export function Words({ text }: { text: string }) {
  return (
    <Text size="sm" component="bdi" className="words" {...(text.length > 600 ? { tabIndex: 0, role: "region", "aria-label": "Full text" } : {})}>
      {text}
    </Text>
  );
}
