import { List, Progress, Stack, Table, Text } from "@mantine/core";

import type { Allowance, Guardrails } from "../../api/schema";
import { Name } from "../../components/Name";
import { asNumber, told } from "../../components/numbers";

/** What holds the agent back: each limit with what is left of it, the bounds, and who approves. */
export function GuardrailList({ guardrails }: { guardrails: Guardrails }) {
  const { allowances, bounds, forbid, allowed_layers: layers, approval } = guardrails;
  const ranges = Object.entries(bounds);
  return (
    <Stack gap="sm">
      {allowances.length === 0 && <Text c="dimmed">No limits are set for the agent.</Text>}
      <Stack gap={6} component="ul" m={0} p={0} style={{ listStyle: "none" }}>
        {allowances.map((one) => (
          <li key={`${one.name} ${one.knob}`}>
            <AllowanceRow allowance={one} />
          </li>
        ))}
      </Stack>
      {ranges.length > 0 && (
        <Table.ScrollContainer minWidth={260}>
          <Table fz="sm" verticalSpacing={3} maw={480}>
            <Table.Thead>
              <Table.Tr>
                <Table.Th>Bounds (for everybody)</Table.Th>
                <Table.Th ta="right">From</Table.Th>
                <Table.Th ta="right">To</Table.Th>
              </Table.Tr>
            </Table.Thead>
            <Table.Tbody>
              {ranges.map(([name, range]) => (
                <Table.Tr key={name}>
                  <Table.Th scope="row" fw={400}>
                    <Name text={name} />
                  </Table.Th>
                  <Table.Td ta="right">{told(range[0])}</Table.Td>
                  <Table.Td ta="right">{told(range[1])}</Table.Td>
                </Table.Tr>
              ))}
            </Table.Tbody>
          </Table>
        </Table.ScrollContainer>
      )}
      {forbid.length > 0 && <Text size="sm">Forbidden to everybody: {forbid.join(", ")}.</Text>}
      {layers.length > 0 && <Text size="sm">Layers that may be changed: {layers.join(", ")}.</Text>}
      <Text size="sm" fw={600}>
        Who approves
      </Text>
      {approval.length === 0 ? (
        <Text size="sm">Whatever the limits let pass is approved at once.</Text>
      ) : (
        <List size="sm" type="ordered">
          {approval.map((rule) => (
            <List.Item key={rule}>{rule}</List.Item>
          ))}
        </List>
      )}
    </Stack>
  );
}

function AllowanceRow({ allowance }: { allowance: Allowance }) {
  const limit = asNumber(allowance.limit);
  const left = asNumber(allowance.left);
  const share = limit !== null && limit > 0 && left !== null ? Math.max(0, Math.min(1, left / limit)) : null;
  return (
    <>
      <Text size="sm">{allowance.words}</Text>
      {share !== null && (
        <Progress
          value={100 * share}
          size="xs"
          color={share === 0 ? "red" : share < 0.25 ? "yellow" : "teal"}
          maw={480}
          aria-label={`${allowance.name}: ${told(left)} of ${told(limit)} ${allowance.unit} left`}
        />
      )}
    </>
  );
}
