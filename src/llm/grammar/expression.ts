/**
 * A language of byte strings. Expressions are immutable and shared; `rule` names one that may contain itself. What a rule
 * stands for is looked up when it is met, so a grammar may be written in any order.
 */
export type Expression =
  | { readonly kind: 'bytes'; readonly ranges: readonly ByteRange[] }
  | { readonly kind: 'all'; readonly parts: readonly Expression[] }
  | { readonly kind: 'one'; readonly parts: readonly Expression[] }
  | { readonly kind: 'times'; readonly part: Expression; readonly low: number; readonly high: number }
  | { readonly kind: 'rule'; readonly body: () => Expression }

/** Inclusive. */
export type ByteRange = readonly [low: number, high: number]

const encoder = new TextEncoder()

/** The empty string. */
export const NOTHING: Expression = { kind: 'all', parts: [] }
/** No string at all. */
export const IMPOSSIBLE: Expression = { kind: 'one', parts: [] }

export function all(...parts: readonly Expression[]): Expression {
  return parts.length === 1 ? parts[0]! : { kind: 'all', parts }
}

export function one(...parts: readonly Expression[]): Expression {
  return parts.length === 1 ? parts[0]! : { kind: 'one', parts }
}

export function times(part: Expression, low: number, high: number): Expression {
  return low === 1 && high === 1 ? part : { kind: 'times', part, low, high }
}

export function optional(part: Expression): Expression {
  return times(part, 0, 1)
}

export function many(part: Expression): Expression {
  return times(part, 0, Infinity)
}

/** A part of the grammar that is entered and left as a whole: the masks of its inside are worked out once for every place it is used. */
export function rule(body: () => Expression): Expression {
  let known: Expression | undefined
  return { kind: 'rule', body: () => (known ??= body()) }
}

export function bytes(...ranges: readonly ByteRange[]): Expression {
  return { kind: 'bytes', ranges }
}

/** Exactly this text, in UTF-8. */
export function literal(text: string): Expression {
  return all(...[...encoder.encode(text)].map(byte => bytes([byte, byte])))
}
