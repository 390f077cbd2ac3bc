/** In place of `fast-uri`, by which rjsf finds schemas that other schemas name: a browser can do this by itself. */
export default {
  equal: (one: string, other: string) => one === other,
  resolve: (base: string, reference: string) => new URL(reference, new URL(base, "schema:/")).href,
};
