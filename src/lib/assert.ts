/** For bugs, never for input. */
export function assert(condition: unknown, what: string): asserts condition {
  if (condition !== true && !condition) throw new Error(`bug: ${what}`)
}
