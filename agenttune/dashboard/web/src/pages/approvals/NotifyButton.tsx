import { Text } from "@mantine/core";
import { useState } from "react";

import { Offered } from "../../components/Offered";
import { canNotify, mayNotify } from "./useWaiting";

/** Asks the browser, once somebody wants it, to tell of requests while the page is out of sight. */
export function NotifyButton() {
  const [isOn, setOn] = useState(mayNotify);
  if (isOn) {
    return (
      <Text size="sm" c="dimmed">
        This browser tells you of new requests.
      </Text>
    );
  }
  const denied = canNotify() && Notification.permission === "denied";
  const whyNot = !canNotify() ? "This browser shows no notifications." : denied ? "This browser was told to show none; its settings for this page change that." : "";
  const ask = async () => setOn((await Notification.requestPermission()) === "granted");
  return (
    <Offered whyNot={whyNot} onClick={() => void ask()}>
      Tell me of new requests
    </Offered>
  );
}
