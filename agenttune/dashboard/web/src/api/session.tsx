import { useQuery, type UseQueryResult } from "@tanstack/react-query";

import { answerOf, server } from "./client";
import { keys } from "./queries";
import type { Me as MeAnswer } from "./schema";

/** Who looks at this page, and what that one may do. */
export interface Me {
  name: string;
  role: string;
  mayPropose: boolean;
  mayDecide: boolean;
  mayChoosePolicy: boolean;
  mayAnnotate: boolean;
  maySeeRules: boolean;
  /** What the person should know, such as that the sign-in has ended. */
  notice: string;
  /** Whether there is somebody: nobody sees only that there is a server. */
  isKnown: boolean;
  /** Whether this browser has signed in, and so can sign out. */
  isSignedIn: boolean;
  /** Of what is not allowed, why not, by the server's name of the right. */
  whyNot: Readonly<Partial<Record<string, string>>>;
  /** The same by kind of command; a kind that is not here may be asked for. */
  whyNotCommand: Readonly<Partial<Record<string, string>>>;
}

export type MeRight = "mayPropose" | "mayDecide" | "mayChoosePolicy" | "mayAnnotate" | "maySeeRules";

const RIGHTS: Record<MeRight, { right: string; said: string }> = {
  mayPropose: { right: "propose", said: "propose commands" },
  mayDecide: { right: "decide", said: "decide" },
  mayChoosePolicy: { right: "choose_policy", said: "choose the policy" },
  mayAnnotate: { right: "annotate", said: "tag runs or judge findings" },
  maySeeRules: { right: "rules", said: "read the gate's rules and what was said to models" },
};

const NOBODY: Me = meOf({
  role: null,
  name: "",
  via: "none",
  token: "",
  runs: [],
  rights: {},
  why_not: {},
  commands: {},
  notice: "",
});

export function useMe(): Me {
  return useMeQuery().data ?? NOBODY;
}

export function useMeQuery(): UseQueryResult<Me> {
  return useQuery({ queryKey: keys.me, queryFn: readMe, staleTime: 60_000 });
}

async function readMe(): Promise<Me> {
  return meOf(await answerOf(server.GET("/api/v1/me")));
}

export function meOf(answer: MeAnswer): Me {
  const may = (right: MeRight) => answer.rights[RIGHTS[right].right] ?? false;
  const refused = Object.entries(answer.commands).filter(([, { allowed }]) => !allowed);
  return {
    name: answer.name,
    role: answer.role ?? "",
    mayPropose: may("mayPropose"),
    mayDecide: may("mayDecide"),
    mayChoosePolicy: may("mayChoosePolicy"),
    mayAnnotate: may("mayAnnotate"),
    maySeeRules: may("maySeeRules"),
    notice: answer.notice,
    isKnown: answer.role !== null,
    isSignedIn: answer.via === "cookie",
    whyNot: answer.why_not,
    whyNotCommand: Object.fromEntries(refused.map(([kind, { why_not: why }]) => [kind, why])),
  };
}

/** Why a control is not offered, in the server's words where it has any; empty where it is offered. */
export function whyNot(me: Me, may: MeRight): string {
  if (me[may]) return "";
  const { right, said } = RIGHTS[may];
  return (
    me.whyNot[right] ??
    `As ${me.role || "a guest"} you may look, but not ${said}. Open the link that agenttune run prints.`
  );
}

/** The same for one kind of command. */
export function whyNotCommand(me: Me, kind: string): string {
  return whyNot(me, "mayPropose") || (me.whyNotCommand[kind] ?? "");
}
