import type { Json } from '../protocols/ids.ts'
import { ComponentError } from './error.ts'

const DEPTH = 200

/**
 * The JSON of what a block returned: undefined fields are left out, typed arrays become arrays, dates become ISO text
 * and numbers that JSON lacks (NaN, Infinity) become null. Throws ComponentError naming the path of a function, symbol,
 * cycle, or integer beyond 2^53.
 */
export function toJson(value: unknown, path = 'output', depth = 0): Json {
  if (depth > DEPTH) throw new ComponentError(`${path} is nested deeper than ${DEPTH} levels, or refers to itself`)
  if (value === null || value === undefined) return null
  if (typeof value === 'string' || typeof value === 'boolean') return value
  if (typeof value === 'number') return Number.isFinite(value) ? value : null
  if (typeof value === 'bigint') return toNumber(value, path)
  if (typeof value !== 'object') throw new ComponentError(`${path} is a ${typeof value}, which JSON cannot carry`)
  if (value instanceof Date) return value.toISOString()
  if (Array.isArray(value)) return value.map((inner, index) => toJson(inner, `${path}[${index}]`, depth + 1))
  if (ArrayBuffer.isView(value)) {
    if (value instanceof DataView) throw new ComponentError(`${path} is a DataView, which JSON cannot carry`)
    return Array.from(value as unknown as Iterable<number | bigint>, inner => toJson(inner, path, depth + 1))
  }
  if (value instanceof Map) return toJson(Object.fromEntries(value), path, depth)
  if (value instanceof Set) return toJson([...value], path, depth)
  const out: Record<string, Json> = {}
  for (const [key, inner] of Object.entries(value)) if (inner !== undefined) out[key] = toJson(inner, `${path}.${key}`, depth + 1)
  return out
}

function toNumber(value: bigint, path: string): number {
  const number = Number(value)
  if (!Number.isSafeInteger(number)) throw new ComponentError(`${path} is ${value}, beyond the integers JSON carries exactly; return it as text`)
  return number
}

/** `value` as an object. Throws ComponentError naming `what`. */
export function record(value: unknown, what = 'data'): Readonly<Record<string, Json>> {
  if (value === null || typeof value !== 'object' || Array.isArray(value)) throw new ComponentError(`${what} must be an object, got ${kind(value)}`)
  return value as Readonly<Record<string, Json>>
}

/** `value` as a finite number; numeric text counts. Throws ComponentError naming `what`. */
export function number(value: unknown, what: string): number {
  const read = typeof value === 'string' && value.trim() !== '' ? Number(value) : value
  if (typeof read !== 'number' || !Number.isFinite(read)) throw new ComponentError(`${what} must be a number, got ${kind(value)}`)
  return read
}

/** `value` as text. Throws ComponentError naming `what`. */
export function text(value: unknown, what: string): string {
  if (typeof value !== 'string') throw new ComponentError(`${what} must be text, got ${kind(value)}`)
  return value
}

/** `value` as a list. Throws ComponentError naming `what`. */
export function list(value: unknown, what: string): readonly Json[] {
  if (!Array.isArray(value)) throw new ComponentError(`${what} must be a list, got ${kind(value)}`)
  return value
}

/** What a reader would call `value`: for messages. */
export function kind(value: unknown): string {
  if (value === null || value === undefined) return 'nothing'
  if (Array.isArray(value)) return `a list of ${value.length}`
  if (typeof value === 'string') return `the text ${JSON.stringify(value.length > 40 ? `${value.slice(0, 40)}…` : value)}`
  return typeof value === 'object' ? 'an object' : `the ${typeof value} ${String(value)}`
}
