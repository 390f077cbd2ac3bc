import { Button, Group, SegmentedControl, Stack, Text, TextInput } from "@mantine/core";
import { useDebouncedValue } from "@mantine/hooks";
import { useState } from "react";

import { useDryRun } from "../../api/steering";
import type { KnobState } from "../../api/schema";
import { useWhyNot } from "../../components/command/useWhyNot";
import { asNumber, told } from "../../components/numbers";
import { Offered } from "../../components/Offered";
import { DryRunAnswer, refusalOf } from "./DryRunAnswer";
import { useSend } from "./useSend";

const FACTORS = [0.1, 0.5, 2] as const;
const SETTLE_MS = 350;

type Sets = "effective" | "base";

/** The learning rate by hand: what it is, what it would be, what the gate says of that, and the button. */
export function LearningRate({ runId, lr }: { runId: string; lr: KnobState }) {
  const [text, setText] = useState("");
  const [sets, setSets] = useState<Sets>("effective");
  const whyNot = useWhyNot(runId, "update_optimizer");
  const { send, isSending } = useSend(runId);
  const now = asNumber(sets === "base" ? lr.base : (lr.effective as number | string | null));
  const wanted = text.trim() === "" ? null : Number(text);
  const isWrong = wanted !== null && !(Number.isFinite(wanted) && wanted >= 0);
  const command = { kind: "update_optimizer", lr: wanted, lr_sets: sets };
  const [settled] = useDebouncedValue(wanted === null || isWrong ? null : JSON.stringify(command), SETTLE_MS);
  const asked = settled === null ? null : (JSON.parse(settled) as typeof command);
  const dry = useDryRun(runId, whyNot === "" ? asked : null);
  const refusal = settled === JSON.stringify(command) ? refusalOf(dry) : "";
  const apply = async () => {
    if (await send(command, "by hand")) setText((typed) => (typed === text ? "" : typed)); // not what was typed meanwhile
  };
  return (
    <Stack gap="xs">
      <Group gap="sm" align="end">
        <TextInput
          label="Learning rate"
          description={`now ${told(lr.effective as number)}${lr.base === lr.effective ? "" : `, base ${told(lr.base)}`}`}
          placeholder={told(now)}
          inputMode="decimal"
          autoComplete="off"
          w={150}
          value={text}
          disabled={whyNot !== ""}
          error={isWrong ? "A number from 0 on." : undefined}
          onChange={({ currentTarget: { value } }) => setText(value)}
        />
        <SegmentedControl
          size="sm"
          aria-label="Which rate is set"
          value={sets}
          disabled={whyNot !== ""}
          onChange={(value) => setSets(value === "base" ? "base" : "effective")}
          data={[
            { value: "effective", label: "this step's" },
            { value: "base", label: "the schedule's base" },
          ]}
        />
        <Group gap={4}>
          {FACTORS.map((factor) => (
            <Offered
              key={factor}
              whyNot={whyNot || (now === null ? "The rate is not known." : "")}
              label={`Fill in ${factor} times the learning rate`}
              onClick={() => setText(String(Number(((now ?? 0) * factor).toPrecision(6))))}
            >
              {`×${factor}`}
            </Offered>
          ))}
        </Group>
        <Button size="sm" loading={isSending} disabled={whyNot !== "" || wanted === null || isWrong || refusal !== ""} title={refusal || undefined} onClick={() => void apply()}>
          Set learning rate
        </Button>
      </Group>
      {whyNot && (
        <Text size="sm" c="dimmed">
          {whyNot}
        </Text>
      )}
      {asked !== null && <DryRunAnswer query={dry} />}
    </Stack>
  );
}
