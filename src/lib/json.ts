import { MeshError } from '../../protocols/errors.ts'
import type { Json } from '../../protocols/ids.ts'

/** Levels of lists and objects that data may have: what checks, encodes and runs it goes down them by recursion. As `sdk/json.ts` has it. */
const MOST_LEVELS = 200

/** Throws BAD_INPUT where `value` goes deeper than data may. */
export function mustBeShallow(value: unknown, what: string): void {
  if (deeperThan(value, MOST_LEVELS)) throw new MeshError('BAD_INPUT', `${what} is nested deeper than ${MOST_LEVELS} levels of lists and objects: flatten it, or send it as text`)
}

function deeperThan(value: unknown, levels: number): boolean {
  if (value === null || typeof value !== 'object' || ArrayBuffer.isView(value)) return false
  return levels === 0 || (Array.isArray(value) ? value : Object.values(value)).some(inner => deeperThan(inner, levels - 1))
}

/** The JSON of a plain value: `undefined` fields are left out, bytes become arrays of numbers. Bounded in depth. */
export function toJson(value: unknown, depth = 64): Json {
  if (value === null || typeof value === 'string' || typeof value === 'boolean') return value
  if (typeof value === 'number') return Number.isFinite(value) ? value : null
  if (typeof value === 'bigint') return value.toString()
  if (typeof value !== 'object' || depth === 0) return null
  if (value instanceof Uint8Array) return [...value]
  if (Array.isArray(value)) return value.map(item => toJson(item, depth - 1))
  const out: Record<string, Json> = {}
  for (const [key, inner] of Object.entries(value)) if (inner !== undefined && typeof inner !== 'function') out[key] = toJson(inner, depth - 1)
  return out
}

export type JsonObject = { readonly [key: string]: Json }

export function isJsonObject(value: Json | undefined): value is JsonObject {
  return value !== null && typeof value === 'object' && !Array.isArray(value)
}
