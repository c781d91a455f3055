import { all, bytes, IMPOSSIBLE, literal, NOTHING, one, times, type Expression } from './expression.ts'

/** What numbers may be written: no exponent where there are bounds, and no more digits than a double tells apart. */
const WHOLE_DIGITS = 16
const FRACTION_DIGITS = 17
const LARGEST = '9'.repeat(WHOLE_DIGITS)

/** A bound and whether the number may be equal to it. */
export type Bound = { readonly at: number; readonly strict: boolean }

/** Bounds that cannot be written without an exponent, or are out of reach. */
export class BoundRefused extends Error {}

/** Whole numbers from `low` to `high`, as decimal digits. */
export function integersBetween(low: Bound | undefined, high: Bound | undefined): Expression {
  const least = low === undefined ? -Infinity : low.strict ? Math.floor(low.at) + 1 : Math.ceil(low.at)
  const most = high === undefined ? Infinity : high.strict ? Math.ceil(high.at) - 1 : Math.floor(high.at)
  return either(
    most >= Math.max(least, 0) ? naturals(text(Math.max(least, 0)), text(most)) : IMPOSSIBLE,
    least < 0 && least <= most ? then(literal('-'), naturals(text(-Math.min(most, -1)), text(-least))) : IMPOSSIBLE,
  )
}

/** Decimal numbers from `low` to `high`. */
export function numbersBetween(low: Bound | undefined, high: Bound | undefined): Expression {
  const zero: Bound = { at: 0, strict: false }
  const positive = high !== undefined && (high.at < 0 || (high.at === 0 && high.strict)) ? IMPOSSIBLE : decimals(low === undefined || low.at < 0 ? zero : low, high)
  const mirrored = (bound: Bound): Bound => ({ at: -bound.at, strict: bound.strict })
  const negative = low !== undefined && low.at >= 0 ? IMPOSSIBLE : decimals(high === undefined || high.at > 0 ? zero : mirrored(high), low === undefined ? undefined : mirrored(low))
  return either(positive, then(literal('-'), negative))
}

function decimals(low: Bound, high: Bound | undefined): Expression {
  if (high !== undefined && high.at < low.at) return IMPOSSIBLE
  const [least, over = ''] = plain(low.at).split('.')
  const [most, under = ''] = high === undefined ? [LARGEST] : plain(high.at).split('.')
  const from = { digits: over, strict: low.strict }
  const to = high === undefined ? undefined : { digits: under, strict: high.strict }
  if (least === most) return then(literal(least!), fraction(from, to))
  const between = naturals(String(BigInt(least!) + 1n), String(BigInt(most!) - 1n))
  return either(then(literal(least!), fraction(from, undefined)), then(between, fraction(undefined, undefined)), then(literal(most!), fraction(undefined, to)))
}

type Edge = { readonly digits: string; readonly strict: boolean } | undefined

/** `.digits`, or nothing, so that 0.digits lies between the edges. */
function fraction(low: Edge, high: Edge): Expression {
  const known = new Map<string, Expression>()
  const mayEnd = (from: Edge, to: Edge): boolean => (from === undefined || (from.digits === '' && !from.strict)) && (to === undefined || to.digits !== '' || !to.strict)
  const rest = (from: Edge, to: Edge, left: number): Expression => {
    const key = `${from?.digits ?? '-'},${to?.digits ?? '-'},${left}`
    const made = known.get(key)
    if (made !== undefined) return made
    const value = either(mayEnd(from, to) ? NOTHING : IMPOSSIBLE, digit(from, to, left))
    known.set(key, value)
    return value
  }
  const digit = (from: Edge, to: Edge, left: number): Expression => {
    if (left === 0) return IMPOSSIBLE
    const least = from === undefined ? 0 : Number(from.digits[0] ?? '0')
    const most = to === undefined ? 9 : Number(to.digits[0] ?? '0')
    const options: Expression[] = []
    for (let at = least; at <= most; at += 1) {
      const nextFrom = from === undefined || at > least ? undefined : { digits: from.digits.slice(1), strict: from.strict }
      const nextTo = to === undefined || at < most ? undefined : { digits: to.digits.slice(1), strict: to.strict }
      options.push(then(literal(String(at)), nextFrom === undefined && nextTo === undefined ? times(bytes([0x30, 0x39]), 0, left - 1) : rest(nextFrom, nextTo, left - 1)))
    }
    return either(...options)
  }
  return either(mayEnd(low, high) ? NOTHING : IMPOSSIBLE, then(literal('.'), digit(low, high, FRACTION_DIGITS)))
}

/** Natural numbers between two, given as digits without leading zeros. */
function naturals(low: string, high: string): Expression {
  if (low.length > high.length || (low.length === high.length && low > high)) return IMPOSSIBLE
  const options: Expression[] = []
  for (let length = low.length; length <= high.length; length += 1) {
    options.push(sameLength(length === low.length ? low : `1${'0'.repeat(length - 1)}`, length === high.length ? high : '9'.repeat(length)))
  }
  return either(...options)
}

function sameLength(low: string, high: string): Expression {
  if (low === '') return NOTHING
  if (/^0+$/.test(low) && /^9+$/.test(high)) return times(bytes([0x30, 0x39]), low.length, low.length)
  const first = low.charCodeAt(0)
  const last = high.charCodeAt(0)
  const rest = low.length - 1
  if (first === last) return then(bytes([first, first]), sameLength(low.slice(1), high.slice(1)))
  const inner = first + 1 <= last - 1 ? then(bytes([first + 1, last - 1]), times(bytes([0x30, 0x39]), rest, rest)) : IMPOSSIBLE
  return either(then(bytes([first, first]), sameLength(low.slice(1), '9'.repeat(rest))), inner, then(bytes([last, last]), sameLength('0'.repeat(rest), high.slice(1))))
}

function text(value: number): string {
  return value > Number(LARGEST) ? LARGEST : plain(value)
}

/** Not negative, without an exponent. */
function plain(value: number): string {
  if (value > Number(LARGEST)) throw new BoundRefused(`the bound ${value} has more than ${WHOLE_DIGITS} digits`)
  const digits = String(Math.abs(value))
  if (digits.includes('e')) throw new BoundRefused(`the bound ${value} is too near to zero to be written as a decimal`)
  return digits
}

/** Keeps out what cannot be, so that no model is led where it cannot end. */
function either(...parts: readonly Expression[]): Expression {
  const possible = parts.filter(part => part !== IMPOSSIBLE)
  return possible.length === 0 ? IMPOSSIBLE : one(...possible)
}

function then(...parts: readonly Expression[]): Expression {
  return parts.includes(IMPOSSIBLE) ? IMPOSSIBLE : all(...parts)
}
