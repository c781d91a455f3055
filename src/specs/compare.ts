import type { Json } from '../../protocols/ids.ts'
import { isList, isObject, type JsonObject } from './document.ts'

type Step = { readonly name: string; readonly alias: string | undefined; readonly index: number | undefined }
export type Path = readonly Step[]

/** A dotted path, read once. `load_15m` in one place of AIOS is `load15m` in another: either finds the other. */
export function compilePath(dotted: string): Path {
  return dotted.split('.').map(name => {
    const alias = /_\d/.test(name) ? name.replace(/_(\d)/, '$1') : name.replace(/([a-z])(\d+[smhd])$/, '$1_$2')
    return { name, alias: alias === name ? undefined : alias, index: /^\d{1,6}$/.test(name) ? Number(name) : undefined }
  })
}

/**
 * Does any value at the path pass? A path reaches into every element of a list, or into the one it numbers; a list at its
 * end is tried as itself and as its elements. Visits nothing twice and makes nothing.
 */
export function someAt(value: Json, path: Path, test: (value: Json) => boolean, at = 0): boolean {
  const step = path[at]
  if (step === undefined) return test(value) || (isList(value) && value.some(test))
  if (!isList(value)) {
    const inner = isObject(value) ? property(value, step) : undefined
    return inner !== undefined && someAt(inner, path, test, at + 1)
  }
  const numbered = step.index === undefined ? undefined : value[step.index]
  if (numbered !== undefined && someAt(numbered, path, test, at + 1)) return true
  for (const element of value) {
    const inner = isObject(element) ? property(element, step) : undefined
    if (inner !== undefined && someAt(inner, path, test, at + 1)) return true
  }
  return false
}

/** The first value at a path, for sorting. */
export function firstAt(value: Json, path: Path): Json | undefined {
  let found: Json | undefined
  someAt(value, path, one => {
    found = one
    return true
  })
  return found
}

function property(value: JsonObject, { name, alias }: Step): Json | undefined {
  if (Object.hasOwn(value, name)) return value[name]
  return alias !== undefined && Object.hasOwn(value, alias) ? value[alias] : undefined
}

/** Numbers and numeric texts are equal when their numbers are; everything else by its JSON. */
export function equal(found: Json, value: Json): boolean {
  if (found === value) return true
  if (typeof found === 'number' || typeof value === 'number') {
    const [a, b] = [numberOf(found), numberOf(value)]
    return a !== undefined && a === b
  }
  if (typeof found === 'boolean' && typeof value === 'string') return String(found) === value.toLowerCase()
  return typeof found === 'object' && typeof value === 'object' && JSON.stringify(found) === JSON.stringify(value)
}

/** Below, at or above zero as `found` is less than, equal to or more than `value`; undefined where they have no order. */
export function order(found: Json, value: Json): number | undefined {
  const [a, b] = [numberOf(found), numberOf(value)]
  if (a !== undefined && b !== undefined) return a - b
  return typeof found === 'string' && typeof value === 'string' ? (found < value ? -1 : found > value ? 1 : 0) : undefined
}

export function numberOf(value: Json): number | undefined {
  if (typeof value === 'number') return value
  return typeof value === 'string' && value.length <= 40 && /^\s*-?\d+(\.\d+)?([eE][+-]?\d{1,3})?\s*$/.test(value) ? Number(value) : undefined
}
