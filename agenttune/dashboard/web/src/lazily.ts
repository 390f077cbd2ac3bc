import { lazy, type ComponentType, type LazyExoticComponent } from "react";

const AGAIN_MS = 2000;
/** Any file of the server's; that it answers says that the server is there. */
const HEALTH = "/api/v1/health";

/**
 * A page whose file is loaded when it is first looked at, and asked for again while the server is away.
 *
 * Throws where the server is there and the file is not: the server was replaced by another version.
 */
export function lazily<P>(load: () => Promise<{ default: ComponentType<P> }>): LazyExoticComponent<ComponentType<P>> {
  return lazy(() => patiently(load));
}

export async function patiently<T>(load: () => Promise<T>, isServerThere = serverAnswers, againMs = AGAIN_MS): Promise<T> {
  let wasThere = false;
  for (;;) {
    try {
      return await load();
    } catch (error) {
      const isThere = await isServerThere();
      if (isThere && wasThere) throw new Error("The server has another version of this page now. Load the page again.", { cause: error });
      wasThere = isThere;
      await new Promise((resolve) => window.setTimeout(resolve, againMs));
    }
  }
}

async function serverAnswers(): Promise<boolean> {
  try {
    return (await fetch(HEALTH)).ok;
  } catch {
    return false;
  }
}
