import createClient from "openapi-fetch";

import type { components, paths } from "./schema";
import { serverClock } from "./serverClock";

/** What the server says of a request that it did not carry out. */
export type Problem = components["schemas"]["Problem"];

/** A refusal or failure, in the server's own words where it had any. */
export class ServerError extends Error {
  constructor(
    readonly status: number,
    readonly problem: Problem,
  ) {
    super(problem.message);
    this.name = "ServerError";
  }
}

/** The server did not answer at all. */
export class ServerAway extends Error {
  constructor(cause: unknown) {
    super("The control server does not answer. It ends with its run (`agenttune open` starts one again); else this page goes on by itself once it is back.", { cause });
    this.name = "ServerAway";
  }
}

async function reach(request: Request): Promise<Response> {
  const askedMs = Date.now();
  try {
    const answer = await fetch(request);
    serverClock.note(answer.headers.get("Date"), askedMs, Date.now());
    return answer;
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ServerAway(error);
  }
}

/** Every route of the control server at an address, with the types of its OpenAPI document. */
export function serverAt(baseUrl: string, credentials: RequestCredentials = "same-origin") {
  return createClient<paths>({ baseUrl, credentials, fetch: reach, querySerializer: { array: { style: "form", explode: true } } });
}

/** The server that this page came from. Cookies go along by themselves. */
export const server = serverAt(window.location.origin);

interface Answer<T> {
  data?: T;
  error?: unknown;
  response: Response;
}

function hasProblem(body: unknown): body is { error: Problem } {
  return typeof body === "object" && body !== null && "error" in body && typeof body.error === "object";
}

/**
 * The answer of a request.
 *
 * Throws ServerError where the server refused, ServerAway where it did not answer.
 */
export async function answerOf<T>(request: Promise<Answer<T>>): Promise<NonNullable<T>> {
  const { data, error, response } = await request;
  if (response.ok && data !== undefined && data !== null) return data;
  if (hasProblem(error)) throw new ServerError(response.status, error.error);
  const message = `The server answered ${response.status} without saying why.`;
  throw new ServerError(response.status, { type: "Unknown", message });
}

/** An error as one sentence for a person. */
export function sentenceOf(error: unknown): string {
  if (error instanceof ServerError && error.problem.field) return `${error.message} (${error.problem.field})`;
  return error instanceof Error ? error.message : String(error);
}
