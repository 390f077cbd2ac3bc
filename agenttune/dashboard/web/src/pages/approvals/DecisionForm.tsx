import { Alert, Box, Button, Checkbox, Group, Kbd, Loader, Text, Textarea } from "@mantine/core";
import { Suspense, useState, type ReactNode, type Ref } from "react";

import { sentenceOf, ServerAway } from "../../api/client";
import type { CommandSchema } from "../../api/schema";
import { givenArguments, type FormHints } from "../../forms/formSchema";
import { lazily } from "../../lazily";
import { askedNext, type Waiting } from "./facts";
import type { Given } from "./useDecide";

const CommandForm = lazily(() => import("../../forms/CommandForm"));

export interface DecisionProps {
  /** The shape of what was asked for; none: this page is older than the command, and edits nothing. */
  command?: CommandSchema | undefined;
  /** All shapes, as some commands hold others. */
  commands: readonly CommandSchema[];
  hints?: FormHints;
  /** Why one cannot decide here; empty where one can. */
  whyNot: string;
  isEditing: boolean;
  onEditing: (isEditing: boolean) => void;
  onDecide: (given: Given) => void;
  isDeciding: boolean;
  error: unknown;
  /** What an edited command would come to. */
  preview: (arguments_: Record<string, unknown>) => ReactNode;
  /** Offers what concerns this one request alone: neither to leave it to others, nor a yes to further ones. */
  isAlone?: boolean;
  /** Whether keys mean this request. */
  hasKeys?: boolean;
  reasonRef?: Ref<HTMLTextAreaElement>;
  approveRef?: Ref<HTMLButtonElement>;
}

/** The answer to a request: approve, edit, reject, or leave it to others, with a reason. */
export function DecisionForm(props: DecisionProps & { record: Waiting; asked: Record<string, unknown> }) {
  const { record, asked, command, commands, hints, whyNot, isEditing, onEditing, onDecide, isDeciding, error, preview } = props;
  const { isAlone = false, hasKeys = false, reasonRef, approveRef } = props;
  const { proposal, request } = record;
  const [reason, setReason] = useState("");
  const [always, setAlways] = useState(false);
  const [values, setValues] = useState(() => editable(asked, command));
  const decide = (given: Omit<Given, "reason">) => onDecide({ ...given, reason: reason.trim() });
  const isOff = whyNot !== "" || isDeciding;
  const next = askedNext(request);
  const key = (name: string) => (hasKeys && !isOff ? { "aria-keyshortcuts": name, rightSection: <Key name={name} /> } : {});
  return (
    <>
      {error !== null && error !== undefined && (
        <Alert color="red" role="alert" title={error instanceof ServerAway ? "It is not known whether that arrived" : "Nothing was decided by you"} style={{ overflowWrap: "anywhere" }}>
          {sentenceOf(error)}
        </Alert>
      )}
      {whyNot && (
        <Alert color="gray" p="xs">
          {whyNot}
        </Alert>
      )}
      <Textarea
        ref={reasonRef}
        label="Reason, if you want to give one"
        description="Whoever asked is told."
        value={reason}
        onChange={({ currentTarget: { value } }) => setReason(value)}
        maxLength={2000}
        autosize
        minRows={2}
        disabled={isOff}
        {...(hasKeys && !isOff ? { "aria-keyshortcuts": "r", rightSection: <Key name="r" /> } : {})}
      />
      {isEditing && command && (
        <Box p="sm" style={{ border: "1px solid var(--mantine-color-default-border)", borderRadius: 8 }}>
          <Suspense fallback={<Loader size="sm" role="img" aria-label="Loading the form" />}>
            <CommandForm
              command={command}
              all={commands}
              values={values}
              onChange={setValues}
              onSubmit={(edited) => decide({ verdict: "edit", command: edited })}
              {...(hints ? { hints } : {})}
              disabled={isOff}
              submitLabel="Run with these values"
              before={preview(givenArguments(command, values))}
            >
              <Button variant="default" onClick={() => onEditing(false)}>
                Leave the values
              </Button>
            </CommandForm>
          </Suspense>
        </Box>
      )}
      {!isEditing && (
        <>
          <Group gap="sm" grow preventGrowOverflow={false}>
            <Button ref={approveRef} color="teal.9" size="md" h={46} loading={isDeciding} disabled={isOff} {...key("a")} onClick={() => decide({ verdict: "approve", always })}>
              Approve
            </Button>
            <Button variant="default" size="md" h={46} disabled={isOff || !command} {...key("e")} onClick={() => onEditing(true)}>
              Edit…
            </Button>
            <Button color="red.9" size="md" h={46} disabled={isOff} onClick={() => decide({ verdict: "reject" })}>
              Reject
            </Button>
            {!isAlone && (
              <Button variant="default" size="md" h={46} disabled={isOff} onClick={() => decide({ verdict: "escalate" })} title={next ? `${next} is asked then.` : "Nobody is asked after you: then it is rejected."}>
                {next ? `Leave it to ${next}` : "Escalate"}
              </Button>
            )}
          </Group>
          {!isAlone && (
            <Checkbox
              label={`With approve: also all further ${proposal.command.kind.replaceAll("_", " ")} under the rule “${request.rule}”`}
              checked={always}
              disabled={isOff}
              onChange={({ currentTarget: { checked } }) => setAlways(checked)}
            />
          )}
        </>
      )}
    </>
  );
}

/** Of what was asked for, what the form has fields for; a link's form has no others than say something. */
function editable(asked: Record<string, unknown>, command: CommandSchema | undefined): Record<string, unknown> {
  const fields = new Set(command?.fields.map(({ name }) => name));
  return Object.fromEntries(Object.entries(asked).filter(([name]) => fields.has(name)));
}

function Key({ name }: { name: string }) {
  return (
    <Text span visibleFrom="sm" aria-hidden>
      <Kbd size="xs">{name}</Kbd>
    </Text>
  );
}
