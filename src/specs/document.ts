import { MeshError } from '../../protocols/errors.ts'
import type { Json } from '../../protocols/ids.ts'

export type JsonObject = { readonly [key: string]: Json }

/** What one document may hold. Larger things are assets, referred to by URI. */
export const DOCUMENT_LIMITS = { depth: 64, values: 100_000, stringChars: 262_144, totalChars: 2_097_152, keyChars: 500 } as const

const FORBIDDEN_KEYS = new Set(['__proto__', 'constructor', 'prototype'])

/**
 * Checks that `value` is JSON of bounded size with no keys that could reach an object's prototype, and copies it.
 * Iterative, so that nesting cannot exhaust the stack. Throws SPEC_INVALID at the first breach.
 */
export function boundedDocument(value: unknown, what: string): JsonObject {
  const root: { value?: Json } = {}
  const pending: { readonly from: unknown; readonly depth: number; readonly field: string; readonly put: (copy: Json) => void }[] = [{ from: value, depth: 0, field: '', put: copy => { root.value = copy } }]
  let values = 0
  let chars = 0
  const refuse = (field: string, message: string): never => {
    throw new MeshError('SPEC_INVALID', `${what}: ${field === '' ? '' : `${field.slice(0, 200)}: `}${message}`, { details: { field: field.slice(0, 200) } })
  }
  const spend = (text: string, field: string, limit: number): string => {
    if (text.length > limit) refuse(field, `is a text of ${text.length} characters; the limit is ${limit}, publish it as an asset instead`)
    chars += text.length
    if (chars > DOCUMENT_LIMITS.totalChars) refuse('', `holds more than ${DOCUMENT_LIMITS.totalChars} characters of text; publish large data as an asset`)
    return text
  }
  for (let item = pending.pop(); item !== undefined; item = pending.pop()) {
    const { from, depth, field, put } = item
    values += 1
    if (values > DOCUMENT_LIMITS.values) refuse('', `holds more than ${DOCUMENT_LIMITS.values} values`)
    if (depth > DOCUMENT_LIMITS.depth) refuse(field, `is nested more than ${DOCUMENT_LIMITS.depth} levels deep`)
    if (from === null || typeof from === 'boolean') put(from)
    else if (typeof from === 'string') put(spend(from, field, DOCUMENT_LIMITS.stringChars))
    else if (typeof from === 'number') put(Number.isFinite(from) ? from : refuse(field, 'is not a finite number'))
    else if (Array.isArray(from)) {
      if (values + from.length > DOCUMENT_LIMITS.values) refuse(field, `is a list of ${from.length}; a whole document may hold ${DOCUMENT_LIMITS.values} values`)
      const list: Json[] = Array.from({ length: from.length }, () => null)
      put(list)
      from.forEach((inner: unknown, index) => pending.push({ from: inner, depth: depth + 1, field: `${field}[${index}]`, put: copy => { list[index] = copy } }))
    } else if (typeof from === 'object' && isPlain(from)) {
      const copy: Record<string, Json> = {}
      put(copy)
      for (const [key, inner] of Object.entries(from)) {
        if (inner === undefined) continue
        const path = field === '' ? key.slice(0, 100) : `${field}.${key.slice(0, 100)}`
        if (FORBIDDEN_KEYS.has(key)) refuse(path, 'is a reserved name; choose another')
        spend(key, path, DOCUMENT_LIMITS.keyChars)
        // Placed now so that the copy keeps the author's order of fields.
        copy[key] = null
        pending.push({ from: inner, depth: depth + 1, field: path, put: done => { copy[key] = done } })
      }
    } else refuse(field, `is not JSON (${typeof from})`)
  }
  return isObject(root.value) ? root.value : refuse('', 'is not a JSON object')
}

export function isObject(value: Json | undefined): value is JsonObject {
  return value !== null && typeof value === 'object' && !Array.isArray(value)
}

/** `Array.isArray` keeps a readonly list only as `any[]`; this keeps its type. */
export function isList(value: Json | undefined): value is readonly Json[] {
  return Array.isArray(value)
}

function isPlain(value: object): boolean {
  const prototype: unknown = Object.getPrototypeOf(value)
  return prototype === Object.prototype || prototype === null
}
