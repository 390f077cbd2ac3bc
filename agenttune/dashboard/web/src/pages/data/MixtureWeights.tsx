import { Button, Group, Slider, Stack, Switch, Table, Text, Title } from "@mantine/core";
import { useState } from "react";

import { Name } from "../../components/Name";
import { NumberField } from "../../components/NumberField";
import { Offered } from "../../components/Offered";
import { told } from "../../components/numbers";
import { rounded, shareOf, shifted, sumOf, type Weights } from "./mixture";

interface Props {
  /** The parameter's name, `weights` for a mixture. */
  name: string;
  weights: Weights;
  whyNot: string;
  onAsk: (weights: Weights) => void;
}

const PERCENT = 100;
const PERCENT_DIGITS = 2;

/** Sliders over the sources of a mixture: one goes up, the others make room, and the sum stays. */
export function MixtureWeights({ name, weights, whyNot, onAsk }: Props) {
  const [wanted, setWanted] = useState<Weights>(weights);
  const [held, setHeld] = useState<ReadonlySet<string>>(new Set());
  const isSame = Object.keys(weights).every((source) => wanted[source] === weights[source]);
  const move = (source: string, percent: number) => setWanted(shifted(wanted, source, (percent / PERCENT) * sumOf(weights), held));
  const hold = (source: string, isHeld: boolean) => {
    const next = new Set(held);
    if (isHeld) next.add(source);
    else next.delete(source);
    setHeld(next);
  };
  return (
    <Stack gap="xs">
      <Title order={3} size="h5">
        <Name text={name} mono />: how often each source is drawn
      </Title>
      <Table.ScrollContainer minWidth={560}>
        <Table verticalSpacing={6}>
          <Table.Thead>
            <Table.Tr>
              <Table.Th>Source</Table.Th>
              <Table.Th ta="right">Now</Table.Th>
              <Table.Th w="35%">Share of draws</Table.Th>
              <Table.Th>Percent</Table.Th>
              <Table.Th>Hold</Table.Th>
            </Table.Tr>
          </Table.Thead>
          <Table.Tbody>
            {Object.keys(weights).map((source) => {
              const percent = shareOf(wanted, source) * PERCENT;
              return (
                <Table.Tr key={source}>
                  <Table.Td maw={180} style={{ overflow: "hidden" }}>
                    <Name text={source} mono />
                  </Table.Td>
                  <Table.Td ta="right">{told(shareOf(weights, source) * PERCENT)} %</Table.Td>
                  <Table.Td>
                    <Slider
                      value={percent}
                      onChange={(value) => move(source, value)}
                      min={0}
                      max={PERCENT}
                      step={0.1}
                      label={null}
                      thumbLabel={`Share of ${source.slice(0, 80)}`}
                      thumbProps={{ "aria-valuetext": `${told(percent)} percent` }}
                      disabled={whyNot !== "" || held.has(source)}
                    />
                  </Table.Td>
                  <Table.Td>
                    <NumberField
                      size="xs"
                      w={90}
                      aria-label={`Percent of ${source.slice(0, 80)}`}
                      value={Number(percent.toFixed(PERCENT_DIGITS))}
                      onChange={(value) => typeof value === "number" && move(source, value)}
                      min={0}
                      max={PERCENT}
                      step={0.1}
                      disabled={whyNot !== "" || held.has(source)}
                    />
                  </Table.Td>
                  <Table.Td>
                    <Switch aria-label={`Hold ${source.slice(0, 80)}`} checked={held.has(source)} onChange={(event) => hold(source, event.currentTarget.checked)} disabled={whyNot !== ""} />
                  </Table.Td>
                </Table.Tr>
              );
            })}
          </Table.Tbody>
        </Table>
      </Table.ScrollContainer>
      <Group gap="sm">
        <Offered whyNot={whyNot || (isSame ? "These are the weights now." : "")} onClick={() => onAsk(rounded(wanted))}>
          Send these weights…
        </Offered>
        <Button size="compact-sm" variant="subtle" disabled={isSame} onClick={() => setWanted(weights)}>
          As they are now
        </Button>
        <Text size="sm" c="dimmed">
          The weights sum up to {told(sumOf(wanted))} before and after.
        </Text>
      </Group>
    </Stack>
  );
}
