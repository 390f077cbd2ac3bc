import { Text } from "@mantine/core";

/** In place of a page whose file is on its way, which it may be for long: the server may be away. */
export function PageToCome() {
  return <Text c="dimmed" data-coming>This page is being loaded. If the server does not answer, it comes once it is back.</Text>;
}
