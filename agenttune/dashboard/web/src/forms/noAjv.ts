/**
 * In place of `@rjsf/validator-ajv8`, which rjsf's helper for its own tests imports: ajv compiles schemas to code, and
 * the page's content security policy forbids that. `validator.ts` checks the forms.
 */
export default undefined;
